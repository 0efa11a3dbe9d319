"""Best rates by hand and on real crops; activations that stay flat over widths and depths.

Covers `parametrisation`, `parametrisation_figures` and `coordinate_check`.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from benchmarks import coordinate_check, parametrisation
from benchmarks.coordinate_check import DEPTHS, WIDTHS, Check, OptimiserName, Sizes, at, sizes
from benchmarks.parametrisation import BASE, Run, best_octave, best_rates, lowest_octave, next_octave, shapes, spans

FLAT = 1.5


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        ([(x, (x + 9.3) ** 2 / 7 + 0.5) for x in range(-12, -6)], (-9.3, 0.5, False)),  # a parabola gives itself
        (
            [(-3.0, 3.0), (-2.0, 1.0), (-1.0, 1.0), (0.0, 3.0)],
            (-1.5, 0.75, False),
        ),  # the vertex of (-3,3), (-2,1), (-1,1)
        ([(-3.0, 3.0), (-2.0, 2.0), (-1.0, 1.0)], (-1.0, 1.0, True)),
        ([(-3.0, 1.0), (-2.0, 2.0), (-1.0, math.nan)], (-3.0, 1.0, True)),
    ],
    ids=["parabola", "between two", "at the end", "diverged"],
)
def test_the_best_rate_is_the_vertex_through_the_lowest_losses(
    points: list[tuple[float, float]], expected: tuple[float, float, bool]
) -> None:
    octave, loss, at_edge = best_octave(points)
    assert (octave, loss) == pytest.approx(expected[:2])
    assert at_edge is expected[2]


def test_rates_are_tried_until_the_best_has_neighbours() -> None:
    """Of a parabola about -5 from -8 on: -8, -7, -6, -5, and -4, which diverges."""
    losses: dict[int, float] = {}
    while (octave := next_octave(losses, -8)) is not None:
        losses[octave] = math.nan if octave > -5 else (octave + 5) ** 2
    assert lowest_octave(losses) == -5
    assert set(losses) == {-8, -7, -6, -5, -4}


def test_every_width_is_at_the_base_depth_and_every_depth_at_the_base_width() -> None:
    found = [(shape.width, shape.depth, shape.width // shape.heads) for shape in shapes((32, 64), (1, 2))]
    assert found == [(32, 2, 16), (64, 2, 16), (64, 1, 16)]


def _runs() -> list[Run]:
    """Losses whose best octave falls by one for each doubling of the width, under `standard` only."""
    return [
        Run("lion", kind, shape.width, shape.depth, 2.0**octave, 0.5 + (octave - best) ** 2 / 9)
        for kind, slope in (("standard", 1.0), ("mup", 0.0))
        for shape in shapes((32, 64, 128), (1, 2))
        for best in (-8 - slope * math.log2(shape.width / 64),)
        for octave in range(-12, -4)
    ]


def test_the_octaves_that_the_best_rate_moves() -> None:
    rows = {row["parametrisation"]: row for row in spans(best_rates(_runs()))}
    assert (rows["standard"]["over widths"], rows["standard"]["over depths"]) == ("2.00", "0.00")
    assert rows["standard"]["log2 rate by width"] == "-7.0 -8.0 -9.0"
    assert (rows["mup"]["over widths"], rows["mup"]["over depths"]) == ("0.00", "0.00")


def test_what_is_concluded_names_the_standard_parametrisation_as_its_peer() -> None:
    """Under mup the rate moves by 0 octaves, under standard by 2; with the two exchanged the goal is missed."""
    widths, depths = parametrisation.as_rows(best_rates(_runs()))
    assert (widths["name"], widths["ours"], widths["peer"], widths["met"]) == (
        "lion: best rate over widths", 0.0, 2.0, True
    )  # fmt: skip
    assert (depths["ours"], depths["peer"], depths["ratio"]) == (0.0, 0.0, None)
    other = {"mup": "standard", "standard": "mup"}
    turned = [replace(run, parametrisation=other[run.parametrisation]) for run in _runs()]
    assert [row["met"] for row in parametrisation.as_rows(best_rates(turned))] == [False, True]


def test_a_coordinate_check_concludes_by_the_largest_over_the_smallest() -> None:
    """Changes of 0.2 and 0.4 are twice apart; what is 0 everywhere is not compared."""
    measured = [
        Sizes("adamw", kind, "width", size, {"prediction": 0.0}, {"prediction": 0.2 * grows**number})
        for kind, grows in (("standard", 4.0), ("mup", 2.0))
        for number, size in enumerate((2, 4))
    ]
    (row,) = coordinate_check.as_rows(measured)
    assert row["name"] == "adamw: change of the prediction over widths"
    assert (row["ours"], row["peer"], row["goal"], row["met"]) == (2.0, 4.0, 1.5, False)


def test_saved_results_are_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = tmp_path / "runs.json"
    results.write_text(json.dumps({"runs": [asdict(run) for run in _runs()]}))
    assert parametrisation.main(["--draw", str(results), str(tmp_path / "runs.png")]) == 0
    assert "standard" in capsys.readouterr().out
    one = {"decoder's input": 0.5, "prediction": 0.1}
    measured = [Sizes("lion", kind, axis, size, one, one) for kind in ("standard", "mup")
                for axis in ("width", "depth") for size in (2, 4)]  # fmt: skip
    results.write_text(json.dumps([asdict(entry) for entry in measured]))
    assert coordinate_check.main(["--draw", str(results), str(tmp_path / "sizes.png")]) == 0
    assert all((tmp_path / name).stat().st_size > 10_000 for name in ("runs.png", "sizes.png"))


@pytest.mark.slow
def test_a_miniature_learns_real_crops(real_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Better than the mean of each channel, whose error on self-standardised crops is about 1."""
    monkeypatch.setenv("SCALING_TEST_DATA", str(real_data))
    assert parametrisation.train(BASE, "adamw", 2.0**-8, steps=60) < 0.8


def _flatness(check: Check, axis: str, values: tuple[int, ...], left_out: tuple[str, ...] = ()) -> dict[str, float]:
    """Largest over smallest, by part and activation."""
    measured = [sizes(at(axis, size), check, axis) for size in values]
    found = {}
    for part in ("start", "change"):
        for name in measured[0].change:
            numbers = [getattr(entry, part)[name] for entry in measured]
            if any(numbers) and f"{part} of the {name}" not in left_out:
                found[f"{part} of the {name}"] = max(numbers) / min(numbers)
    return found


# Independent blocks average out under the residual scale 1 / L: their sum at the start falls with the root of the
# depth, and so does a part of its first changes. The stream, of which it is a part, does not.
LEFT_OUT: dict[str, tuple[str, ...]] = {
    "width": (),
    "depth": ("start of the sum of the blocks", "change of the sum of the blocks"),
}


@pytest.mark.parametrize("axis", ["width", "depth"])
def test_activations_and_their_change_do_not_depend_on_the_shape(axis: str) -> None:
    """The smaller sizes of the check below; the standard parametrisation is the control."""
    values = (32, 128) if axis == "width" else (2, 8)
    mup = _flatness(Check("mup", "adamw", seeds=1), axis, values, LEFT_OUT[axis])
    assert max(mup.values()) < FLAT, mup
    standard = _flatness(Check("standard", "adamw", seeds=1, layer_scale=1.0), axis, values)
    assert max(standard.values()) > 2 * FLAT, standard


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("optimiser", ["lion", "adamw", "muon"])
@pytest.mark.parametrize("axis", ["width", "depth"])
def test_the_coordinate_check_is_flat_from_the_smallest_to_the_largest(axis: str, optimiser: OptimiserName) -> None:
    """Muon's orthogonal steps take minutes at the largest width, which only the benchmark has."""
    values = (WIDTHS[:-1] if optimiser == "muon" else WIDTHS) if axis == "width" else DEPTHS
    values = (values[0], values[len(values) // 2], values[-1])
    found = _flatness(Check("mup", optimiser), axis, values, LEFT_OUT[axis])
    assert max(found.values()) < FLAT, found
