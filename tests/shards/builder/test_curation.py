"""Curation: perturbations with enough replicates, fewer controls, and the number of removed wells by rule."""

import itertools
import json

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards.build import main
from shards.builder.build_set import build
from shards.builder.curation import CurationRules, curate
from shards.errors import LayoutError
from shards.layouts.well_table import LayoutOutput, WellTable, table_of
from shards.reader.shard_set import ShardSet


def table(wells: list[tuple[str, str, str, int]]) -> WellTable:
    """A table of (experiment, well, treatment, site)."""
    frame = pd.DataFrame(wells, columns=["experiment", "well", "treatment", "site"]).assign(
        plate="1", **{"source:line": "t.csv"}
    )
    frame["key"] = frame["experiment"] + "_" + frame["well"] + "_" + frame["site"].astype(str)
    return table_of(LayoutOutput([frame.assign(**{"channel:DNA": "a.png"})]))


@pytest.fixture
def screen_table() -> WellTable:
    """A in 3 experiments and 4 wells; B in 3 and 3; C in 1 and 5; D in 2 and 2 of two sites each; 3 x 40 controls."""
    wells = [(f"e{e}", "A01", "A", 1) for e in (1, 2, 3)] + [("e1", "A02", "A", 1)]
    wells += [(f"e{e}", "B01", "B", 1) for e in (1, 2, 3)]
    wells += [("e1", f"C{n:02d}", "C", 1) for n in range(5)]
    wells += [(f"e{e}", "D01", "D", site) for e in (1, 2) for site in (1, 2)]
    wells += [(f"e{e}", f"K{n:02d}", "EMPTY_control", 1) for e in (1, 2, 3) for n in range(40)]
    return table(wells)


@pytest.mark.parametrize(
    ("rules", "left", "removed"),
    [
        (CurationRules(min_experiments=3), {"A", "B"}, {"min_experiments": 9, "min_wells": 0, "control_fraction": 0}),
        (CurationRules(min_wells=3), {"A", "B", "C"}, {"min_experiments": 0, "min_wells": 4, "control_fraction": 0}),
        (
            CurationRules(min_experiments=2, min_wells=4),
            {"A"},
            {"min_experiments": 5, "min_wells": 7, "control_fraction": 0},
        ),
        (
            CurationRules(control_fraction=0),
            set("ABCD"),
            {"min_experiments": 0, "min_wells": 0, "control_fraction": 120},
        ),
    ],
)
def test_what_the_rules_leave_and_what_they_count(screen_table, rules, left, removed):
    kept, counts = curate(screen_table, rules, seed=0)
    assert set(kept.wells["treatment"]) - {"EMPTY_control"} == left
    assert counts == removed
    assert len(kept.wells) + sum(counts.values()) == len(screen_table.wells)
    assert ("EMPTY_control" in set(kept.wells["treatment"])) == (rules.control_fraction > 0)


@pytest.mark.parametrize("name", ["dose", "control", "surplus"])
def test_the_perturbations_column_may_have_any_name(name):
    doses = list("aaaabbcd")
    frame = table([(f"e{n}", "A01", "T", 1) for n in range(8)]).wells.assign(**{name: doses})
    kept, removed = curate(table_of(LayoutOutput([frame])), CurationRules(perturbation=name, min_wells=3), 0)
    assert list(kept.wells[name]) == list("aaaa")
    assert removed == {"min_experiments": 0, "min_wells": 4, "control_fraction": 0}


def test_controls_are_drawn_by_well_nested_and_independent_of_other_wells(screen_table):
    kept = {
        fraction: set(curate(screen_table, CurationRules(control_fraction=fraction), 7)[0].wells["key"])
        for fraction in (0, 0.1, 0.3, 0.7, 1)
    }
    assert all(small <= large for small, large in itertools.pairwise(kept.values()))
    # 120 controls drawn at 0.3: 36 on average, 5 standard deviations are 25
    assert 11 < len(kept[0.3]) - len(kept[0]) < 61
    fewer = table_of(LayoutOutput([screen_table.wells.query("experiment == 'e1'")]))
    fewer_kept = set(curate(fewer, CurationRules(control_fraction=0.3), 7)[0].wells["key"])
    assert fewer_kept == {key for key in kept[0.3] if key.startswith("e1")}
    assert set(curate(screen_table, CurationRules(control_fraction=0.3), 8)[0].wells["key"]) != kept[0.3]


@pytest.mark.slow
@given(
    wells=st.lists(
        st.tuples(st.sampled_from("xyz"), st.sampled_from("pqrstuvw"), st.sampled_from(["A", "B", "C", "DMSO"])),
        min_size=1, max_size=40, unique_by=lambda well: well[:2],
    ),
    least=st.tuples(st.integers(1, 3), st.integers(1, 5)),
)  # fmt: skip
def test_exactly_the_rare_perturbations_go(wells, least):
    rare = {
        name
        for name in "ABC"
        if len({w[0] for w in wells if w[2] == name}) < least[0] or sum(w[2] == name for w in wells) < least[1]
    }
    expected = {f"{e}_{w}_1" for e, w, treatment in wells if treatment not in rare}
    whole = table([(*well, 1) for well in wells])
    rules = CurationRules(min_experiments=least[0], min_wells=least[1])
    if not expected:
        with pytest.raises(LayoutError, match="curation leaves no well image"):
            curate(whole, rules, 0)
        return
    assert set(curate(whole, rules, 0)[0].wells["key"]) == expected


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"min_wells": 0}, "at least 1 experiment and 1 well"),
        ({"control_fraction": 1.5}, "must be 0 to 1, got 1.5"),
        ({"perturbation": "compound"}, "curation: no column 'compound'; the columns are experiment, well"),
    ],
)
def test_rules_that_cannot_be_met(screen_table, rules, message):
    with pytest.raises(LayoutError, match=message):
        curate(screen_table, CurationRules(**rules), 0)


def test_a_curated_set_states_what_was_left_out_and_why(screen, tmp_path, capsys):
    root, output = screen(experiments=3, wells=5), tmp_path / "out"
    text = (root / "metadata.csv").read_text().replace("G4_guide_1", "rare_guide_1", 1)
    (root / "metadata.csv").write_text(text)
    command = ["--layout", "rxrx3", "--root", str(root), "--output", str(output), "--workers", "1"]
    command += ["--min-wells", "2", "--min-experiments", "2", "--control-fraction", "0", "--controls", "EMPTY_control"]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "left out 1 well images by min_experiments" in printed
    assert "left out 3 well images by control_fraction" in printed
    shards = ShardSet.open(output)
    assert set(shards.wells["treatment"]) == {f"G{w}_guide_1" for w in (1, 2, 3, 4)}
    assert len(shards.wells) == 3 * 5 - 3 - 1
    assert shards.manifest.removed == {"min_experiments": 1, "min_wells": 0, "control_fraction": 3}
    stated = json.loads((output / "manifest.json").read_text())["made_with"]["curation"]
    assert stated["min_experiments"] == "2"
    assert json.loads(stated["controls"]) == ["EMPTY_control"]
    plain, _ = build("rxrx3", root, tmp_path / "all", progress=False)
    assert plain.removed == {}
    assert plain.made_with["curation"] is None
