"""Tables of variants: names in any type, pairs by columns, last checkpoints, and groups. Covers `comparison_text`."""

import numpy as np
import pandas as pd
import pytest

from analysis.design.comparison_text import as_json, figure_table, sentence
from analysis.design.variant_table import Roles, compare_table
from analysis.fitting.read_results import Columns, ResultsTableError

COLUMNS = Columns(("flops",), "loss")
COMPUTE = np.geomspace(1e16, 1e19, 5)


def study(multipliers, column="optimiser", seeds=2, noise=0.003):
    """A row per variant, model and seed."""
    rng, rows = np.random.default_rng(0), []
    for name, multiplier in multipliers.items():
        for model, flops in enumerate(COMPUTE):
            for seed in range(seeds):
                loss = (0.3 + 0.5 * (flops * multiplier / 1e16) ** -0.2) * np.exp(noise * rng.normal())
                rows.append({column: name, "model": f"m{model}", "seed": seed, "flops": flops, "loss": loss})
    return pd.DataFrame(rows)


def holds(comparison, multiplier):
    return comparison.shared.low * 0.98 < multiplier < comparison.shared.high * 1.02


def test_every_variant_is_compared_with_the_first_or_a_named_one():
    table = study({"adamw": 1, "lion": 0.5, "muon": 3})
    (group,), metric = compare_table(table, COLUMNS, Roles("optimiser", cell=("model",), seed="seed"))
    assert metric.kind == "loss"
    assert [(one.baseline, one.variant) for one in group.comparisons] == [("adamw", "lion"), ("adamw", "muon")]
    assert holds(group.comparisons[0], 0.5)
    assert holds(group.comparisons[1], 3)
    (group,), _ = compare_table(table, COLUMNS, Roles("optimiser", baseline="muon"))
    assert [(one.baseline, one.variant) for one in group.comparisons] == [("muon", "adamw"), ("muon", "lion")]
    assert holds(group.comparisons[0], 1 / 3)
    assert group.comparisons[0].pairs == 5  # of equal compute


@pytest.mark.parametrize("values", [(0.5, 0.75), ("0.5", "0.75"), (1, 2), (True, False), ("", "NA")])
def test_variants_may_be_of_any_type(values):
    table = study(dict(zip(values, (1, 2), strict=True)))
    first, second = (str(value) or "(blank)" for value in values)
    (group,), _ = compare_table(table, COLUMNS, Roles("optimiser", baseline=second))
    assert [(one.baseline, one.variant) for one in group.comparisons] == [(second, first)]


def test_designs_of_another_compute_in_each_variant_are_paired_by_their_columns():
    """A mask ratio changes the FLOPs of each model."""
    table = study({"0.5": 1, "0.75": 1}, "mask")
    table.loc[table["mask"] == "0.75", "flops"] *= 0.6  # the same loss for less
    (group,), _ = compare_table(table, COLUMNS, Roles("mask", cell=("model",), seed="seed"))
    assert group.comparisons[0].pairs == 5
    assert holds(group.comparisons[0], 1 / 0.6)
    (group,), _ = compare_table(table, COLUMNS, Roles("mask"))
    assert group.comparisons[0].pairs == 0


def test_of_several_checkpoints_of_a_run_the_last_counts():
    table = study({"adamw": 1, "muon": 2})
    table["run"] = [f"run{row}" for row in range(len(table))]
    early = table.assign(flops=table["flops"] / 3, loss=table["loss"] * 2)
    both = pd.concat([table, early]).sample(frac=1, random_state=0)
    roles = Roles("optimiser", "adamw", ("model",), "seed")
    (without,), _ = compare_table(both, COLUMNS, roles)
    assert "a cell is one design at one length" in without.failed["muon"]
    roles = Roles("optimiser", "adamw", ("model",), "seed", "run")
    (group,), _ = compare_table(both, COLUMNS, roles)
    (alone,), _ = compare_table(table, COLUMNS, Roles("optimiser", "adamw", ("model",), "seed"))
    assert group.comparisons[0].shared.value == pytest.approx(alone.comparisons[0].shared.value, rel=1e-6)


def test_groups_are_compared_apart_and_one_that_fails_does_not_stop_the_others():
    first, second = study({"adamw": 1, "muon": 2}), study({"adamw": 1, "muon": 4, "lion": 1})
    third = study({"muon": 2, "lion": 1})
    second = second[(second["optimiser"] != "lion") | (second["model"] == "m0")]
    table = pd.concat([part.assign(task=name) for name, part in (("a", first), ("b", second), ("c", third))])
    groups, _ = compare_table(table, Columns(("flops",), "loss", ("task",)), Roles("optimiser"))
    assert [group.name for group in groups] == ["a", "b", "c"]
    assert holds(groups[0].comparisons[0], 2)
    assert holds(groups[1].comparisons[0], 4)
    assert "variant lion: 2 runs at 1 distinct computes" in groups[1].failed["lion"]
    assert groups[2].failed == dict.fromkeys(("muon", "lion"), "no usable row of the baseline adamw")


def test_rows_left_out_are_said_for_each_variant():
    table = study({"adamw": 1, "muon": 2}).astype({"loss": object})
    table.loc[3, "loss"] = "diverged"
    (group,), _ = compare_table(table, COLUMNS, Roles("optimiser"))
    assert group.notes == ("adamw: 1 rows without usable numbers in flops, loss left out, first on line 5",)


@pytest.mark.parametrize(
    ("names", "baseline", "message"),
    [
        (["adamw"], None, "--variant optimiser: every row is adamw; a comparison needs two variants"),
        (["adamw", "muon"], "adamv", "--baseline: no 'adamv' in optimiser; did you mean 'adamw'\\?"),
        (["adamw", "muon"], "sgd", "--baseline: no 'sgd' in optimiser \\(there are adamw, muon\\)"),
    ],
)
def test_a_missing_variant_or_baseline_is_an_error(names, baseline, message):
    with pytest.raises(ResultsTableError, match=message):
        compare_table(study(dict.fromkeys(names, 1)), COLUMNS, Roles("optimiser", baseline))


def test_sentences_name_the_one_that_needs_more():
    (group,), _ = compare_table(study({"adamw": 1, "lion": 0.5, "muon": 3, "again": 1}), COLUMNS, Roles("optimiser"))
    lion, muon, again = map(sentence, group.comparisons)
    assert lion.startswith("lion against adamw: lion needs ")
    assert lion.endswith("the compute of adamw")
    assert muon.startswith("muon against adamw: adamw needs ")
    assert again == "again against adamw: no difference is shown"


def test_what_is_not_identified_has_a_range_and_no_value():
    table = study({"adamw": 1, "muon": 1}, noise=0.02)
    table["loss"] = 0.5 + 0.01 * np.random.default_rng(4).normal(size=len(table))
    (group,), _ = compare_table(table, COLUMNS, Roles("optimiser"), law="power_law")
    (comparison,) = as_json(group)["comparisons"]
    assert comparison["multiplier"]["value"] is None
    assert "do not say how much compute" in comparison["says"]
    drawn = figure_table(group.comparisons, ["muon, task 1"])
    assert drawn.loc[drawn["compute"].isna(), "value"].isna().all()
    assert set(drawn["label"]) == {"muon, task 1"}
