"""Covers `states` and the parts of `cells` that use it: segments, branches, snapshots and continued runs."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.grid.cell import Cell
from harness.grid.cells import cells, find_cell
from harness.grid.states import decay_from, last_step, steps_at
from harness.recipe.errors import RecipeError
from harness.recipe.load import load

ENDS = "train.schedule={name: warmup_stable_decay, ends: [0.125, 0.25, 0.5, 1.0]}"
ONE_RUN = ["grid.models=[vit_s16]", "grid.datasets=[two]"]


def grid_of(path: Path, *overrides: str) -> list[Cell]:
    return [cell for cell in cells(load(path, "laptop", [*ONE_RUN, *overrides])) if cell.training is not None]


def described(cell: Cell) -> tuple[str, float, float | None]:
    """Kind, the share at which the cell ends, and that at which it starts."""
    assert cell.training is not None
    start = cell.start.training.share if cell.start is not None and cell.start.training is not None else None
    return cell.kind, cell.training.share, start


def test_a_trunk_has_a_segment_where_a_branch_leaves_it_and_the_rest_goes_on(tiny_recipe_file: Path) -> None:
    """With a decay of 0.2, branches leave at 0.1, 0.2 and 0.4; the last is the trunk's own end and starts at 0.4."""
    grid = grid_of(tiny_recipe_file, ENDS)
    assert [described(cell) for cell in grid] == [
        ("segment", 0.1, None),
        ("segment", 0.2, 0.1),
        ("segment", 0.4, 0.2),
        ("trained", 0.125, 0.1),
        ("trained", 0.25, 0.2),
        ("trained", 0.5, 0.4),
        ("trained", 1.0, 0.4),
    ]
    assert [[heir.id for heir in cell.heirs] for cell in grid[:3]] == [
        [grid[1].id, grid[3].id], [grid[2].id, grid[4].id], [grid[5].id, grid[6].id]
    ]  # fmt: skip
    assert grid[0].heirs[0].heirs[0].heirs == grid[2].heirs
    assert [cell.id.rsplit("-", 1)[0] for cell in grid[2:4]] == ["vit_s16-two-s0-until0.4", "vit_s16-two-s0-end0.125"]
    assert not any(cell.is_point for cell in grid[:3])


def test_ids_say_what_was_trained_and_not_where_it_began(tiny_recipe_file: Path) -> None:
    """A run alone, a run with other ends, and one more end: what is trained before keeps its id."""
    ids = {cell.id for cell in grid_of(tiny_recipe_file, ENDS)}
    for end in (0.125, 0.5, 1.0):
        schedule = f"train.schedule={{name: warmup_stable_decay, ends: [{end}]}}"
        (alone,) = grid_of(tiny_recipe_file, schedule)
        assert alone.start is None
        assert alone.id in ids
    more = "train.schedule={name: warmup_stable_decay, ends: [0.125, 0.25, 0.5, 0.75, 1.0]}"
    assert ids < {cell.id for cell in grid_of(tiny_recipe_file, more)}
    for other in ("shape: linear", "decay: 0.1", "warmup: 0.01"):
        changed = {cell.id for cell in grid_of(tiny_recipe_file, ENDS[:-1] + f", {other}}}")}
        segments = {cell_id for cell_id in ids if "until" in cell_id}
        assert changed & ids == (segments if other.startswith("shape") else set())


def test_variants_of_the_decay_share_one_trunk(tiny_recipe_file: Path) -> None:
    grid = grid_of(tiny_recipe_file, ENDS, "grid.axes={train.schedule.shape: [sqrt, linear, cosine]}")
    assert [cell.kind for cell in grid].count("segment") == 3
    assert [cell.kind for cell in grid].count("trained") == 12
    assert len(grid[0].heirs) == 1 + 3
    assert {heir.kind for heir in grid[0].heirs} == {"segment", "trained"}


def test_points_with_other_ends_or_lengths_of_the_decay_share_one_trunk(tiny_recipe_file: Path) -> None:
    """Ends 1/4 and 1 at one point, 1/2 and 1 at the other: 1 is one cell, and starts from the later segment. Decays of
    0.2 and 0.6 leave the trunk at 0.4, 0.2 and 0.1 of it; no part of it is trained twice."""
    stable = "train.schedule={name: warmup_stable_decay}"
    ends = grid_of(tiny_recipe_file, stable, "grid.axes={train.schedule.ends: [[0.25, 1.0], [0.5, 1.0]]}")
    assert [described(cell) for cell in ends] == [
        ("segment", 0.2, None), ("trained", 0.25, 0.2), ("segment", 0.4, 0.2), ("trained", 1.0, 0.4),
        ("trained", 0.5, 0.4),
    ]  # fmt: skip
    halves = "train.schedule={name: warmup_stable_decay, ends: [0.25, 0.5, 1.0]}"
    decays = grid_of(tiny_recipe_file, halves, "grid.axes={train.schedule.decay: [0.2, 0.6]}")
    segments = {described(cell)[1:] for cell in decays if cell.kind == "segment"}
    assert segments == {(0.1, None), (0.2, 0.1), (0.4, 0.2)}
    starts = {cell.labels()["train.schedule.decay"]: described(cell)[2] for cell in decays if "end1" in cell.id}
    assert starts == {0.2: 0.4, 0.6: 0.4}
    for grid in (ends, decays):
        before: set[str] = set()
        for cell in grid:
            assert cell.start is None or cell.start.id in before
            before.add(cell.id)


def test_an_excluded_end_takes_the_segments_that_only_it_needs(tiny_recipe_file: Path) -> None:
    exclude = "grid.exclude=[{end: 0.5}, {model: vit_s16, end: 1.0}]"
    shares = [described(cell) for cell in grid_of(tiny_recipe_file, ENDS, exclude)]
    assert shares == [("segment", 0.1, None), ("trained", 0.125, 0.1), ("trained", 0.25, 0.1)]


def test_a_snapshot_is_a_segment_that_is_evaluated_and_leaves_the_runs_id_alone(tiny_recipe_file: Path) -> None:
    (whole,) = grid_of(tiny_recipe_file)
    first, second, final = grid_of(tiny_recipe_file, "train.snapshots=[0.1, 0.3]")
    assert final.id == whole.id
    assert [described(cell) for cell in (first, second, final)] == [
        ("segment", 0.1, None), ("segment", 0.3, 0.1), ("trained", 1.0, 0.3)
    ]  # fmt: skip
    assert first.is_point
    assert first.labels()["end"] == 0.1
    assert "end" not in whole.labels()


def test_a_snapshot_where_a_branch_leaves_is_the_trunks_segment(tiny_recipe_file: Path) -> None:
    plain, marked = (grid_of(tiny_recipe_file, ENDS, f"train.snapshots={shares}") for shares in ("[]", "[0.2]"))
    assert [cell.id for cell in marked] == [cell.id for cell in plain]
    assert [cell.is_snapshot for cell in marked] == [False, True, False, False, False, False, False]


def test_a_continued_run_starts_from_the_same_model_and_seed_and_its_id_says_so(tiny_recipe_file: Path) -> None:
    both = ["grid.datasets=[two, one]", "grid.seeds=[0, 1]", "grid.models=[vit_s16, vit_b8]"]
    grid = grid_of(tiny_recipe_file, *both, "train.start_from={two: one}")
    apart = {cell.id for cell in grid_of(tiny_recipe_file, *both)}
    for cell in grid:
        if cell.dataset == "one":
            assert cell.id in apart
            assert cell.start is None
        else:
            assert cell.id not in apart
            assert cell.start is not None
            same = (cell.start.model, cell.start.seed, cell.start.dataset)
            assert same == (cell.model, cell.seed, "one")
            assert cell.begins_run
    by_id = next(cell.id for cell in grid if (cell.dataset, cell.model, cell.seed) == ("one", "vit_b8", 1))
    named = grid_of(tiny_recipe_file, *both, "grid.models=[vit_b8]", f"train.start_from={{two: {by_id}}}")
    assert {cell.start.id for cell in named if cell.start is not None} == {by_id}


def test_a_cell_comes_after_its_start_of_another_seed_and_models_are_not_mixed(tiny_recipe_file: Path) -> None:
    both = ["grid.datasets=[two, one]", "grid.seeds=[0, 1]"]
    start = next(cell.id for cell in grid_of(tiny_recipe_file, *both) if (cell.dataset, cell.seed) == ("one", 1))
    grid = grid_of(tiny_recipe_file, *both, f"train.start_from={{two: {start}}}")
    assert [(cell.dataset, cell.seed) for cell in grid] == [("one", 0), ("one", 1), ("two", 0), ("two", 1)]
    assert {cell.start and cell.start.id for cell in grid[2:]} == {start}
    with pytest.raises(ValueError, match=f"{start} is of the model vit_s16, and vit_b8 cannot start from it"):
        grid_of(tiny_recipe_file, *both, "grid.models=[vit_s16, vit_b8]", f"train.start_from={{two: {start}}}")


def test_branches_of_a_continued_run_start_from_its_own_trunk(tiny_recipe_file: Path) -> None:
    ends = "train.schedule={name: warmup_stable_decay, ends: [0.5, 1.0]}"
    grid = grid_of(tiny_recipe_file, "grid.datasets=[one, two]", "train.start_from={two: one}", ends)
    trunk, half, full = [cell for cell in grid if cell.dataset == "two"]
    assert trunk.start is not None
    assert (trunk.start.dataset, trunk.start.labels()["end"]) == ("one", 1.0)
    assert half.start is not None
    assert half.start.id == full.start.id == trunk.id  # type: ignore[union-attr]
    assert [cell.begins_run for cell in (trunk, half, full)] == [True, False, False]


@pytest.mark.parametrize(
    ("overrides", "text"),
    [
        (["train.start_from={two: one}"], r"start_from\.two: 'one' is no cell that vit_s16 with seed 0 can start from"),
        (["grid.datasets=[one, two]", "train.start_from={two: one, one: two}"], "starts from"),
        (["grid.datasets=[one, two]", "train.start_from={two: two}"], "two starts from two"),
        (["grid.datasets=[one, two]", "train.start_from={two: vit_s16-one-s9}"], "known: vit_s16-one-s0"),
    ],
    ids=["absent", "circle", "itself", "unknown"],
)
def test_a_start_that_is_no_cell_is_named(tiny_recipe_file: Path, overrides: list[str], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        grid_of(tiny_recipe_file, *overrides)


@pytest.mark.parametrize(
    ("overrides", "text"),
    [
        (["train.schedule={name: warmup_stable_decay, ends: [0.5, 0.25]}"], r"ends \[0\.5, 0\.25\] must rise"),
        (["train.schedule={name: warmup_stable_decay, ends: [0.02]}"], "before its warm-up ends at 0.02"),
        (["train.schedule={name: warmup_stable_decay, decay: 1.0}"], "train.schedule.decay"),
        (["train.schedule={ends: [0.5, 1.0]}"], r"train\.schedule\.name: is required and missing"),
        (["train.schedule={name: stable}"], "unknown name 'stable'; known: 'one_cycle_cosine', 'warmup_stable_decay'"),
        ([ENDS, "train.early_stopping={patience: 2}"], "a run that stops early never decays"),
        ([ENDS, "train.snapshots=[0.9]"], "0.9 lies in the decay, which begins at 0.8 of the run"),
        (["train.snapshots=[0.4, 0.2]"], "must rise"),
        (["train.snapshots=[1.0]"], "less than 1"),
        (["train.start_from={tow: one}"], "did you mean 'two'"),
        ([ENDS, "grid.exclude=[{end: 0.3}]"], "0.3 is not on this axis"),
        (["grid.exclude=[{end: 1.0}]"], "is not an axis of this grid"),
    ],
    ids=lambda value: "-".join(value)[:60] if isinstance(value, list) else None,
)
def test_states_that_do_not_fit_are_refused(tiny_recipe_file: Path, overrides: list[str], text: str) -> None:
    with pytest.raises(RecipeError, match=text):
        load(tiny_recipe_file, "laptop", overrides)


@given(st.integers(20, 10**9), st.sampled_from([0.1, 0.3, 0.7, 0.9]), st.sampled_from([0.05, 0.1, 0.2, 0.5]))
def test_segments_end_where_decays_begin(planned: int, end: float, decay: float) -> None:
    """To within half a step of the exact share, and never after the end."""
    share = round(end * (1 - decay), 12)
    assert abs(steps_at(share, planned) - share * planned) <= 0.5 + 1e-6 * planned or steps_at(share, planned) == 1
    assert steps_at(share, planned) <= steps_at(end, planned)


def test_a_run_too_short_for_a_decay_is_refused(tiny_recipe_file: Path) -> None:
    branch = next(cell for cell in grid_of(tiny_recipe_file, ENDS) if cell.kind == "trained")
    assert branch.training is not None
    assert (decay_from(branch.training, 80), last_step(branch.training, 80)) == (8, 10)
    with pytest.raises(ValueError, match=r"the run to 0\.125 has 1 steps: too few for a decay"):
        decay_from(branch.training, 8)


def test_cells_are_found_by_the_end_in_their_id(tiny_recipe_file: Path) -> None:
    recipe = load(tiny_recipe_file, "laptop", [*ONE_RUN, ENDS])
    assert find_cell(recipe, "vit_s16-two-s0-end0.5").labels()["end"] == 0.5
