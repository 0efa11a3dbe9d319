"""Covers `write` and `stamp`: the report is drawn again if anything that it shows, or any of its files, has changed.

`reconstructions` are in page/test_data.py, in a report of the paper's study.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from finished_cells import finished

from harness.grid.cell_folder import cell_folder
from harness.grid.cells import cells
from harness.recipe.axes import axis_names
from harness.recipe.load import load
from harness.recipe.schema import Recipe
from harness.report import stamp, write
from harness.report.page.data import plans
from harness.report.points import points
from harness.report.write import report
from harness.storage import ledger

RECIPE = Path(__file__).parents[3] / "recipes" / "scaling.yaml"
GRID = ["grid.models=[vit_s16, vit_b16, vit_l16]", "grid.datasets=[rxrx3, rpi_52m]", "grid.untrained=false"]


def study(folder: Path, *overrides: str) -> Recipe:
    """Six trained cells and pixel statistics, all evaluated, of which three stopped early."""
    recipe = load(RECIPE, "slurm", [f"output={folder}", *GRID, *overrides])
    for number, cell in enumerate(cells(recipe)):
        stopped = cell.dataset == "rpi_52m"
        ended = {"steps": 50 if stopped else 100, "planned_steps": 100, "annealed": not stopped}
        finished(recipe, cell, 0.2 + 0.03 * number, 100_000_000 if stopped else 10_000_000, **ended)
    return recipe


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> tuple[Recipe, list[Path]]:
    recipe = study(tmp_path_factory.mktemp("drawn"))
    return recipe, report(recipe)


@pytest.fixture
def digest(tmp_path: Path) -> tuple[Recipe, Callable[..., str]]:
    """A study that is not drawn, and the digest of what its report would show."""

    def of(*overrides: str) -> str:
        recipe = load(RECIPE, "slurm", [f"output={tmp_path}", *GRID, *overrides])
        grid = cells(recipe)
        return stamp.inputs(recipe, grid, plans(recipe, grid))

    return study(tmp_path), of


@pytest.mark.slow
def test_a_report_is_drawn_once(drawn: tuple[Recipe, list[Path]]) -> None:
    recipe, written = drawn
    assert report(recipe) == []
    folder = recipe.output / "report"
    assert {path.name for path in folder.iterdir()} == {path.name for path in written} | {"stamp.json"}


@pytest.mark.slow
def test_a_file_that_is_gone_or_changed_is_drawn_again(drawn: tuple[Recipe, list[Path]]) -> None:
    recipe, written = drawn
    before = {path: path.read_bytes() for path in written}
    grid = cells(recipe)
    current = stamp.inputs(recipe, grid, plans(recipe, grid))
    for path in written:
        path.unlink()
        assert not stamp.is_current(path.parent, current), path
        path.write_bytes(before[path] + b" ")
        assert not stamp.is_current(path.parent, current), path
        path.write_bytes(before[path])
    assert stamp.is_current(recipe.output / "report", current)
    (recipe.output / "report" / "report.html").unlink()
    assert set(report(recipe)) == set(written)
    assert {path: path.read_bytes() for path in written} == before


@pytest.mark.slow
def test_a_row_with_another_value_reaches_the_tables_and_the_page(tmp_path: Path) -> None:
    recipe = study(tmp_path)
    report(recipe)
    cell = cells(recipe)[1]
    path = ledger.row_path(tmp_path, cell.id, "evaluate")
    path.write_text(path.read_text().replace("0.23", "0.777"))  # the same fingerprint
    report(recipe)
    table = pd.read_csv(tmp_path / "report" / "points.csv")
    assert 0.777 in set(table.loc[table["cell"] == cell.id, "recall"])
    assert "0.777" in (tmp_path / "report" / "report.html").read_text()


@pytest.mark.slow
def test_files_of_a_state_in_which_there_was_more_to_draw_are_removed(tmp_path: Path) -> None:
    recipe = study(tmp_path)
    report(recipe)
    for cell in cells(recipe):
        ledger.row_path(tmp_path, cell.id, "train").unlink(missing_ok=True)
    written = report(recipe)
    left = {path.name for path in (tmp_path / "report").iterdir()}
    assert left == {path.name for path in written} | {"stamp.json"}
    assert not left & {"fits.json", "recall_versus_compute.png", "loss_versus_compute.pdf", "reconstructions.png"}
    assert "Crops: original, masked" not in (tmp_path / "report" / "report.html").read_text()


def test_the_digest_depends_on_every_row_log_and_crop(digest: tuple[Recipe, Callable[..., str]]) -> None:
    recipe, of = digest
    cell = cells(recipe)[2]
    paths = [ledger.row_path(recipe.output, cell.id, stage) for stage in ("train", "evaluate")]
    paths += [cell_folder(recipe, cell) / name for name in ("train.jsonl", "reconstructions.npz")]
    seen = {of()}
    for path in paths:
        path.write_bytes(path.read_bytes() + b"\n")
        seen.add(of())
        path.unlink()
        seen.add(of())
    assert len(seen) == 1 + 2 * len(paths)
    assert of() == of()


@pytest.mark.parametrize(
    "override",
    [
        "fit.convention=mae_train",
        "fit.overlay_table6=false",
        "fit.include_unannealed=true",
        "name=another",
        "hardware.price_per_hour=9",
        "hardware.mfu=0.5",
        "datasets.rxrx3.images=9",
        "launch.nodes.vit_s16=3",
    ],
)
def test_the_digest_depends_on_what_the_recipe_shows(digest: tuple[Recipe, Callable[..., str]], override: str) -> None:
    assert digest[1](override) != digest[1]()


def test_the_digest_depends_on_the_code_and_on_packages(
    digest: tuple[Recipe, Callable[..., str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _, of = digest
    before = of()
    for name, value in (("code", "other code"), ("packages", {"plotly": "0"})):
        with monkeypatch.context() as patched:
            patched.setattr(stamp, name, lambda value=value: value)
            assert of() != before
    digests = set()
    for text in ("1", "2"):
        (tmp_path / "code").mkdir(exist_ok=True)
        (tmp_path / "code" / "__init__.py").write_text("")
        (tmp_path / "code" / "report.js").write_text(text)
        monkeypatch.setattr(stamp.analysis, "__file__", str(tmp_path / "code" / "__init__.py"))
        stamp.code.cache_clear()
        digests.add(stamp.code())
    stamp.code.cache_clear()
    assert len(digests) == 2


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"stamp": "x"}', '{"value": {}, "sha256": "x"}', "\0" * 9])
def test_a_stamp_that_cannot_be_read_is_no_stamp(tmp_path: Path, text: str) -> None:
    (tmp_path / "stamp.json").write_text(text)
    assert not stamp.is_current(tmp_path, "x")
    assert stamp.written_before(tmp_path) == []


def test_a_stamp_is_current_for_its_inputs_and_files_only(tmp_path: Path) -> None:
    path = tmp_path / "points.csv"
    path.write_text("a\n")
    stamp.write(tmp_path, "x", [path])
    assert stamp.is_current(tmp_path, "x")
    assert not stamp.is_current(tmp_path, "y")
    value = json.loads((tmp_path / "stamp.json").read_text())
    value["value"]["inputs"] = "y"
    (tmp_path / "stamp.json").write_text(json.dumps(value))
    assert not stamp.is_current(tmp_path, "y")


@pytest.mark.slow
def test_runs_that_stopped_before_they_were_annealed_are_in_tables_and_not_in_fits(
    drawn: tuple[Recipe, list[Path]],
) -> None:
    """Three of six runs stopped early; recall of the others is a line of 0.03 a run by construction."""
    recipe, _ = drawn
    folder = recipe.output / "report"
    table = pd.read_csv(folder / "points.csv")
    stated = table[table["trained"]].groupby("dataset")["annealed"].agg(set)
    assert stated.to_dict() == {"rpi_52m": {False}, "rxrx3": {True}}
    assert table.loc[~table["trained"], "annealed"].isna().all()
    for fit in json.loads((folder / "fits.json").read_text()):
        kept = table[table["trained"] & (table["dataset"] == "rxrx3") & (table["source"] == fit["source"])]
        slope = np.polyfit(np.log10(kept["compute"]), kept["recall"], 1)[0]
        assert (fit["runs"], fit["left_out"], fit["unknown"]) == (3, 3, 0)
        assert fit["slope"] == pytest.approx(slope)
    tex = (folder / "recall.tex").read_text()
    assert tex.count(r"$^\dagger$") == 3 + 1
    assert r"\multicolumn{5}{l}{$^\dagger$ stopped before its learning rate had decayed}" in tex
    page = (folder / "report.html").read_text()
    assert "3 runs; 3 runs left out: training stopped before the learning rate had decayed" in page
    assert "3 evaluated runs stopped before their learning rate had decayed; laws leave them out" in page
    assert page.count("<td>no</td>") == page.count("<td>yes</td>") == 3


@pytest.mark.slow
def test_the_recipe_may_ask_for_all_runs(tmp_path: Path) -> None:
    recipe = study(tmp_path, "fit.include_unannealed=true")
    report(recipe)
    fits = json.loads((tmp_path / "report" / "fits.json").read_text())
    assert {(fit["runs"], fit["left_out"]) for fit in fits} == {(6, 0)}
    assert "laws include them" in (tmp_path / "report" / "report.html").read_text()


def test_the_latex_table_has_a_row_for_each_end_at_each_point(tmp_path: Path) -> None:
    schedule = "train.schedule={name: warmup_stable_decay, ends: [0.5, 1.0]}"
    shapes = "grid.axes={train.schedule.shape: [sqrt, linear]}"
    one = ["grid.models=[vit_s16]", "grid.datasets=[rxrx3]", "train.early_stopping=null", f"output={tmp_path}"]
    recipe = load(RECIPE, "slurm", [*one, schedule, shapes])
    grid = [cell for cell in cells(recipe) if cell.kind == "trained"]
    for number, cell in enumerate(grid):
        finished(recipe, cell, 0.1 * (number + 1))
    write._exports(tmp_path, points(recipe, grid, "touvron"), axis_names(recipe.grid))
    rows = [line.split(" & ")[3:6] for line in (tmp_path / "recall.tex").read_text().splitlines() if "rxrx3" in line]
    assert [[shape, end, recall[:5]] for shape, end, recall in rows] == [
        ["sqrt", "0.5", "0.100"], ["sqrt", "1.0", "0.200"], ["linear", "0.5", "0.300"], ["linear", "1.0", "0.400"],
    ]  # fmt: skip
