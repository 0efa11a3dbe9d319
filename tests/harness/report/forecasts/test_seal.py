"""Sealed forecasts: any changed byte, removal, replacement and reordering is noticed, with the file and the field."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.recipe.load import load
from harness.recipe.schema import Recipe
from harness.report.forecasts import seal
from harness.report.forecasts.seal import CellForecast, Forecast, Predicted, Sealed, SealError, read_all, write

RECIPE = Path(__file__).parents[4] / "recipes" / "scaling.yaml"
CELL = CellForecast(
    cell="vit_l8-rxrx3-s0", compute=1e20, crops=10**9, steps_seen=0, steps=None, is_trained=False,
    predicted=(
        Predicted(metric="CORUM", value=0.31, low=0.28, high=0.34, law="log_linear in compute", points=9),
        Predicted(metric="validation loss", cannot_tell="not enough to tell: 2 points; 3 would be"),
    ),
)  # fmt: skip


def content(number: int, previous: str | None, time: str = "2026-01-02T03:04:05+00:00") -> Forecast:
    return Forecast(
        number=number, previous=previous, time=time, confidence=0.9, convention="touvron", recipe={"name": "x"},
        ledger="0" * 64, rows=18, code="1" * 64, packages={"numpy": "2"}, cells=(CELL,),
    )  # fmt: skip


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    return load(RECIPE, "slurm", [f"output={tmp_path}"])


@pytest.fixture
def sealed(recipe: Recipe) -> list[Sealed]:
    return [write(recipe, content) for _ in range(3)]


def test_forecasts_are_read_as_they_were_written(recipe: Recipe, sealed: list[Sealed]) -> None:
    assert read_all(recipe) == sealed
    assert [one.forecast.number for one in sealed] == [1, 2, 3]
    assert [one.forecast.previous for one in sealed] == [None, sealed[0].seal, sealed[1].seal]
    for one in sealed:
        assert one.path.name == f"{one.forecast.number:04d}-{one.seal}.json"
        assert json.loads(one.path.read_text())["sha256"] == one.seal
    assert read_all(load(RECIPE, "slurm", [f"output={recipe.output / 'none'}"])) == []


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
@given(st.integers(0, 2), st.integers(0, 10**6), st.integers(1, 255))
def test_any_changed_byte_is_noticed(recipe: Recipe, sealed: list[Sealed], which: int, place: int, change: int) -> None:
    path = sealed[which].path
    before = path.read_bytes()
    altered = bytearray(before)
    altered[place % len(before)] ^= change
    path.write_bytes(altered)
    try:
        with pytest.raises(SealError) as error:
            read_all(recipe)
        assert error.value.path == path
    finally:
        path.write_bytes(before)


@pytest.mark.parametrize("which", [0, 1, 2], ids=["first", "middle", "last"])
def test_a_removed_forecast_is_noticed(recipe: Recipe, sealed: list[Sealed], which: int) -> None:
    sealed[which].path.unlink()
    with pytest.raises(SealError, match="is missing" if which < 2 else "one was removed") as error:
        read_all(recipe)
    assert error.value.place == ("number" if which < 2 else "count")
    with pytest.raises(SealError):
        write(recipe, content)  # nothing is added to a broken chain
    assert len(list(sealed[0].path.parent.glob("0*.json"))) == 2


@pytest.mark.parametrize("which", [0, 1, 2], ids=["first", "middle", "last"])
def test_a_forecast_that_is_sealed_anew_is_noticed(recipe: Recipe, sealed: list[Sealed], which: int) -> None:
    """With a valid seal of its own, it does not fit the one after it, or the file that names the last."""
    old = sealed[which]
    forged = content(old.forecast.number, old.forecast.previous, time="2025-01-01T00:00:00+00:00")
    value = forged.model_dump(mode="json")
    text = {"sha256": seal._hash(value), "forecast": value}
    old.path.unlink()
    (old.path.parent / f"{old.forecast.number:04d}-{text['sha256']}.json").write_bytes(seal._text(text))
    with pytest.raises(SealError, match="replaced") as error:
        read_all(recipe)
    assert error.value.place == ("previous" if which < 2 else "sha256")


def test_all_forecasts_removed_are_noticed_by_the_file_that_names_the_last(
    recipe: Recipe, sealed: list[Sealed]
) -> None:
    for one in sealed:
        one.path.unlink()
    with pytest.raises(SealError, match=r"last\.json: count: is 3, the forecasts here say 0"):
        read_all(recipe)
    (recipe.output / "forecasts" / "last.json").unlink()
    assert read_all(recipe) == []  # what a published seal is for


@pytest.mark.parametrize("text", ["", "{}", "[]", "7", "{", '{"sha256": 1, "forecast": []}', '{"sha256": NaN}'],
                         ids=["empty", "no fields", "list", "number", "torn", "wrong types", "not finite"])  # fmt: skip
def test_what_is_no_forecast_is_refused_by_name(recipe: Recipe, sealed: list[Sealed], text: str) -> None:
    sealed[1].path.write_text(text)
    with pytest.raises(SealError) as error:
        read_all(recipe)
    assert str(error.value).startswith(f"{sealed[1].path}: ")
    assert error.value.place in ("file", "sha256")


def test_a_process_that_ends_between_the_two_files_loses_nothing(recipe: Recipe, sealed: list[Sealed]) -> None:
    """`last.json` then names the forecast before."""
    last = recipe.output / "forecasts" / "last.json"
    last.write_bytes(seal._text(seal._last(sealed[:2])))
    assert read_all(recipe) == sealed
    assert write(recipe, content).forecast.number == 4
    assert len(read_all(recipe)) == 4


def test_the_seal_is_the_sha256_of_the_canonical_content(sealed: list[Sealed]) -> None:
    """So that anyone can check it with two lines of any language."""
    from hashlib import sha256

    value = json.loads(sealed[0].path.read_text())
    canonical = json.dumps(value["forecast"], sort_keys=True, separators=(",", ":"))
    assert sha256(canonical.encode()).hexdigest() == value["sha256"] == sealed[0].seal
