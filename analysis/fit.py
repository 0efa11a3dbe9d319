"""Fit scaling laws to a table of results, with intervals and a checklist, from Python or the command line.

    python -m analysis.fit DATA.csv --x flops --y loss [--group curve] [--train-where 'Training==1'] [--law auto|NAME]
        [--predict-at 1e21 ...] [--json]
    python -m analysis.fit DATA.csv --x flops --y loss --variant optimiser [--baseline adamw] [--seed seed]
    python -m analysis.fit DATA.csv --best-rate learning_rate --y loss [--group model] [--seed seed] [--plot rates]

Two --x columns fit a joint law of model size and data; three, a law of model size, unique data and data seen.
--variant says how much more compute the runs of one value of a column need than those of another for the same metric.
--best-rate reads the best learning rate of each size (--group).
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from analysis.from_tables.fit_options import fit_parser

if TYPE_CHECKING:
    import pandas as pd

    from analysis.arrays import Floats
    from analysis.fitting.fit_curve import FittedCurve
    from analysis.fitting.read_results import Curve
    from analysis.laws.metric import Metric

MOST_INPUTS = 3
NEED_VARIANT = ("baseline", "cell", "seed")
NOT_WITH_VARIANT = ("frontier_at", "unique", "factors", "x_low", "x_high", "architecture", "of_architecture")
NOT_WITH_RATE = (*NOT_WITH_VARIANT, "x", "variant", "baseline", "cell", "predict_at", "run")


def fit_table(table: pd.DataFrame, options: argparse.Namespace) -> dict[str, Any]:
    """Fit every group of a table, with the options of the command line.

    Raises:
        ValueError: a column, expression, law or target that cannot be used; or no group could be fitted.
    """
    from analysis.fitting.averages import EXPERIENCE, average_for
    from analysis.fitting.read_results import Columns, check_architecture, curves, with_names
    from analysis.laws.catalogue import named_law
    from analysis.laws.metric import Metric

    if options.plot:
        raise ValueError("--plot draws best rates; it needs --best-rate")
    if lacking := _named(options, NEED_VARIANT):
        raise ValueError(f"{lacking}: for comparing variants, which needs --variant")
    table = with_names(table)
    columns = _columns(table, options, "x", "y", "group", "factors", "run", "architecture", "x_low", "x_high")
    names, y = columns["x"], columns["y"]
    if len(set(names)) < len(names) or len(names) > MOST_INPUTS:
        raise ValueError(f"--x takes one to {MOST_INPUTS} different columns, not {', '.join(names)}")
    if options.frontier_at and len(names) == 1:
        raise ValueError("--frontier-at splits compute between the columns of a joint law: name two or three --x")
    if options.architecture and len(names) > 1:
        raise ValueError(
            "--architecture: a joint law has a term for model size already, which a level of each architecture would "
            "repeat; leave it out, or name one --x"
        )
    metric = Metric(options.metric, options.bound) if options.metric else None
    curve_list, _ = curves(
        table, Columns(**columns, annealed=not options.include_unannealed), options.train_where, metric,
    )  # fmt: skip
    if options.law == "auto":
        options = argparse.Namespace(**vars(options) | {"law": average_for(names[0])})
    elif options.law not in EXPERIENCE:
        named_law(options.law)
    if options.unique and not (options.frontier_at and len(names) == MOST_INPUTS):
        raise ValueError(
            "--unique says how much data --frontier-at may show without repeats: it needs that option and "
            "three --x (model size, unique data, data seen)"
        )
    targets = _targets(options.predict_at, len(names))
    check_architecture(options.of_architecture, curve_list)
    results = [_fit_group(curve, targets, options) for curve in curve_list]
    if all("error" in result for result in results):
        raise ValueError(f"no group could be fitted; {results[0]['group']}: {results[0]['error']}")
    return {
        "x": list(names), "y": y, "metric": _common([curve.metric for curve in curve_list]),
        "confidence": options.confidence, "groups": results, "summary": _summary(results),
    }  # fmt: skip


def compare_variants(table: pd.DataFrame, options: argparse.Namespace) -> dict[str, Any]:
    """Compare every variant of a table with the baseline, with the options of the command line.

    Raises:
        ValueError: a column, law or option that cannot be used; or nothing could be compared.
    """
    from analysis.design.comparison_text import as_json
    from analysis.design.variant_table import Roles, compare_table
    from analysis.fitting.read_results import Columns, with_names
    from analysis.laws.metric import Metric

    if unused := _named(options, NOT_WITH_VARIANT):
        raise ValueError(f"--variant compares laws of one x; {unused} cannot be used with it")
    if len(options.x) > 1:
        raise ValueError(f"--variant compares at one --x, compute; not {', '.join(options.x)}")
    table = with_names(table)
    columns = _columns(table, options, "x", "y", "group")
    roles = Roles(**_columns(table, options, "variant", "cell", "seed", "run"), baseline=options.baseline)
    at = _targets(options.predict_at, 1)
    compared, metric = compare_table(
        table, Columns(**columns, annealed=not options.include_unannealed), roles, where=options.train_where,
        metric=Metric(options.metric, options.bound) if options.metric else None, law=options.law,
        at=() if at is None else at[:, 0].tolist(), confidence=options.confidence,
    )  # fmt: skip
    if not any(group.comparisons for group in compared):
        raise ValueError(f"nothing could be compared; {next(iter(compared[0].failed.values()))}")
    return {
        "x": list(columns["x"]), "y": columns["y"], "variant": roles.variant,
        "metric": asdict(metric) | {"meaning": metric.describe},
        "confidence": options.confidence, "groups": [as_json(group) for group in compared],
    }  # fmt: skip


def best_rates(table: pd.DataFrame, options: argparse.Namespace) -> dict[str, Any]:
    """The best rate of each size, with the options of the command line.

    Raises:
        ValueError: a column or option that cannot be used.
    """
    from analysis.design.rates.table import as_json, rate_tables, read_sweeps
    from analysis.fitting.read_results import with_names
    from analysis.laws.metric import Metric

    if unused := _named(options, NOT_WITH_RATE):
        raise ValueError(f"--best-rate reads one optimum per --group; {unused} cannot be used with it")
    table = with_names(table)
    columns = _columns(table, options, "best_rate", "y", "group", "seed")
    rate, y = columns["best_rate"], columns["y"]
    sweeps, metric, notes = read_sweeps(
        table, rate, y, group=columns["group"], seed=columns["seed"], where=options.train_where,
        metric=Metric(options.metric, options.bound) if options.metric else None,
        annealed=not options.include_unannealed, confidence=options.confidence,
    )  # fmt: skip
    if options.plot:
        from analysis.figures.best_rate import metric_against_rate
        from analysis.figures.save import save

        drawn = rate_tables(sweeps, metric)
        save(metric_against_rate(drawn.runs, drawn.lines, drawn.optima, rate=rate, y=y), options.plot)
    return {
        "best_rate": rate, "y": y, "metric": asdict(metric) | {"meaning": metric.describe},
        "confidence": options.confidence, "sizes": [as_json(sweep) for sweep in sweeps], "notes": notes,
    }  # fmt: skip


def _columns(table: pd.DataFrame, options: argparse.Namespace, *names: str) -> dict[str, Any]:
    """The table's columns that these options name; None where an option is not given."""
    from analysis.fitting.read_results import column

    columns = dict[str, Any]()
    for name in names:
        value, option = getattr(options, name), f"--{name.replace('_', '-')}"
        several = isinstance(value, list)
        found = [column(table, requested, option) for requested in (value if several else [value] if value else [])]
        columns[name] = tuple(found) if several else found[0] if found else None
    return columns


def _named(options: argparse.Namespace, names: Sequence[str]) -> str:
    """Those of the options that were given, for a message."""
    return ", ".join(f"--{name.replace('_', '-')}" for name in names if getattr(options, name))


def _common(metrics: Sequence[Metric]) -> dict[str, Any]:
    """The metric of all groups, or that they have several kinds; each group's result has its own."""
    first, *others = metrics
    if all(other == first for other in others):
        return asdict(first) | {"meaning": first.describe}
    kinds = "; ".join(dict.fromkeys(metric.describe for metric in metrics))
    return {"kind": "several", "bound": None, "top": None, "falling": None, "meaning": f"by group: {kinds}"}


def _fit_group(curve: Curve, targets: Floats | None, options: argparse.Namespace) -> dict[str, Any]:
    """One group's result, or the reason why it cannot be fitted; the other groups continue."""
    from analysis.fitting.as_json import as_json
    from analysis.fitting.fit_curve import fit_points

    try:
        result = fit_points(
            curve.train, curve.metric, options.law, targets=targets, held_out=curve.held_out,
            architecture=options.of_architecture, factors=curve.factors, confidence=options.confidence,
            notes=curve.notes, metric_note=curve.guess.note,
        )  # fmt: skip
    except ValueError as error:
        message = "; ".join([str(error), *curve.notes])
        return {"group": curve.name, "n_train": len(curve.train), "error": message}
    inputs = len(result.points.x[0])
    frontier = {"frontier": _frontier(result, options)} if inputs > 1 else {}
    repeats = {"repeats": _repeats(result, options)} if inputs == MOST_INPUTS else {}
    return as_json(result, curve.name) | frontier | repeats


def _repeats(result: FittedCurve, options: argparse.Namespace) -> dict[str, Any]:
    """How often to show the data of the runs, and the split of compute where unique data are limited."""
    from analysis.design.repeats import as_json

    unique = _targets([options.unique] if options.unique else [], 1, "--unique")
    budgets = None if unique is None else _targets(options.frontier_at, 1, "--frontier-at")
    return as_json(
        result.law, result.points, None if unique is None else float(unique[0, 0]),
        () if budgets is None else budgets[:, 0].tolist(), per_unit=options.flops_per_unit,
        confidence=options.confidence,
    )  # fmt: skip


def _frontier(result: FittedCurve, options: argparse.Namespace) -> dict[str, Any]:
    """How a joint law would split compute C = k N D: exponents with intervals, and the best N and D at some budgets."""
    from analysis.design.frontier import split

    budgets = _targets(options.frontier_at, 1, "--frontier-at")
    allocation = split(
        result.law.members[0], result.points, () if budgets is None else budgets[:, 0].tolist(),
        per_unit=options.flops_per_unit, confidence=options.confidence,
    )  # fmt: skip
    best = allocation.frontier
    columns = {"compute": best.compute, "size": best.size, "size_low": best.size_low, "size_high": best.size_high,
               "data": best.data, "y": best.loss}  # fmt: skip
    return {
        "size_exponent": asdict(best.size_exponent), "data_exponent": asdict(best.data_exponent),
        "iso_flop_size_exponent": asdict(allocation.iso_flop) if allocation.iso_flop else None,
        "unidentified": list(allocation.unidentified), "flops_per_unit": options.flops_per_unit,
        "asked": budgets is not None, "warnings": list(allocation.warnings),
        "data_never_repeated": len(result.points.x[0]) == MOST_INPUTS,
        "at": [dict(zip(columns, map(float, row), strict=True)) for row in zip(*columns.values(), strict=True)],
    }  # fmt: skip


def _summary(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Means over groups with rows held out."""
    scores = [result["held_out"] for result in results if result.get("held_out")]
    summary: dict[str, Any] = {"groups": len(results), "failed": sum("error" in result for result in results)}
    if scores:
        for name in ("rmse_log", "rmse", "coverage"):
            summary[f"mean_{name}"] = sum(score[name] for score in scores) / len(scores)
    return summary


def _targets(words: Sequence[str], inputs: int, option: str = "--predict-at") -> Floats | None:
    """(m, d) from words: numbers, with commas between the inputs of one target."""
    import numpy as np

    from analysis.tables.parse_numbers import number

    if not words:
        return None
    values = [[number(part) for part in word.split(",") if part] for word in words]
    if inputs > 1 and all(len(place) == 1 for place in values):
        flat = [place[0] for place in values]
        values = [flat[i : i + inputs] for i in range(0, len(flat), inputs)]
    for word, place in zip(words, values, strict=False):
        if len(place) != inputs or not all(0 < part < math.inf for part in place):
            example = "1e21 or 70B" if inputs == 1 else "7e9,1.4e11" if inputs == 2 else "7e9,1e10,1e11"
            raise ValueError(f"{option} {word}: each place needs {inputs} positive number(s), as {example}")
    return np.array(values)


def _finite(value: Any) -> Any:  # noqa: ANN401  (any JSON value)
    """The value with NaN and infinity as null, which is all that JSON has."""
    if isinstance(value, dict):
        return {key: _finite(element) for key, element in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(element) for element in value]
    if hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _text(result: dict[str, Any]) -> str:
    if "variant" in result:
        from analysis.design.comparison_text import text
    elif "best_rate" in result:
        from analysis.design.rates.table import text
    else:
        from analysis.fitting.text import text
    return text(result)


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, fit, print; exit status 0, or 2 if the table cannot be used."""
    parser = fit_parser(__doc__)
    options = parser.parse_args(arguments)
    if not (options.x or options.best_rate):
        parser.error("the following arguments are required: --x (or --best-rate)")
    from analysis.fitting.read_results import read_file

    try:
        use = best_rates if options.best_rate else compare_variants if options.variant else fit_table
        result = use(read_file(options.data), options)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    result = _finite({"data": options.data} | result)
    print(json.dumps(result, indent=1) if options.json else _text(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
