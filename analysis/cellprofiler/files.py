"""CellProfiler prediction from files: embeddings and features joined by well, progress saved, Table 7 and Figure 9."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.cellprofiler.prediction import VERSION, FeaturePrediction, Standardise, predict_features, table7
from analysis.embeddings.feature_tables import FeatureTable, FeatureTableError, read_wells
from analysis.figures.csv_table import csv_text, from_csv_text
from analysis.tables.names import joined_name, name_of

if TYPE_CHECKING:
    from collections.abc import Callable

    import pandas as pd

COLUMNS = [field.name for field in fields(FeaturePrediction)]


def predict_from_files(
    embeddings: Sequence[Path], features: Sequence[Path], *, on: Sequence[str], experiment: tuple[str, str, str],
    prefix: str | None, standardise: Standardise, output: Path | None, compare: Path | None,
) -> dict[str, Any]:  # fmt: skip
    """Train on the wells of one experiment, test on another's, and summarise.

    Args:
        on: columns that identify a well in both tables.
        experiment: column, training experiment, test experiment.
        output: predictions are appended to this file one by one; those already in it are not computed again.
        compare: another model's predictions; Figure 9 is drawn next to `output`.

    Raises:
        FeatureTableError: files or columns that do not fit, no well in common, or predictions that cannot be read.
    """
    if compare and not output:
        raise FeatureTableError("--compare draws a figure next to --output; give --output too")
    wells, profiles = (_to_join(table, on) for table in (read_wells(embeddings, prefix), read_wells(features)))
    rows, columns = _joined(wells, profiles, on)
    column, train, test = experiment
    names = wells.column(column).to_numpy(object)[rows]
    train, test = name_of(train, column), name_of(test, column)
    parts = [names == which for which in (train, test)]
    for which, part in zip((train, test), parts, strict=True):
        if not part.any():
            raise FeatureTableError(
                f"no well with features has {column}={which}; there are {', '.join(sorted(set(names)))}"
            )
    table = _frame(profiles, columns)
    train_data, test_data = ((wells.features[rows[part]], table[part].reset_index(drop=True)) for part in parts)
    done = read_predictions(output) if output and output.exists() else {}
    with recorder(output, len(table.columns) - len(done)) as record:
        predictions, constant = predict_features(
            train_data, test_data, standardise=standardise, done=done, progress=record
        )
    figure = _figure(predictions, output, compare) if compare and output else None
    summary = table7(predictions).to_dict("records") if predictions else []
    return {
        "protocol": f"{VERSION}, standardised by {standardise}",
        "train_wells": int(parts[0].sum()),
        "test_wells": int(parts[1].sum()),
        "features": len(predictions),
        "constant_features": len(constant),
        "wells_without_match": len(wells.metadata) - len(rows),
        "columns": {"the embeddings": wells.describe(), "CellProfiler": profiles.describe()},
        "table7": summary,
        "figure": figure,
    }


def read_predictions(path: Path) -> dict[str, FeaturePrediction]:
    """Predictions by feature; a last line that was cut short by a crash is left out.

    Raises:
        FeatureTableError: not a file of predictions.
    """
    with path.open(encoding="utf-8", newline="") as file:
        complete = file.read().rpartition("\n")
    reader = csv.DictReader(io.StringIO("".join(complete[:2]), newline=""))
    if reader.fieldnames != COLUMNS:
        raise FeatureTableError(f"{path}: not predictions; the header must be {','.join(COLUMNS)}")
    try:
        rows = [
            FeaturePrediction(
                from_csv_text(row["feature"]), from_csv_text(row["category"]), float(row["r2"]), row["transform"],
                float(row["ratio"]), float(row["alpha"]), int(row["weights"]),
            )
            for row in reader
        ]  # fmt: skip
    except (TypeError, ValueError) as error:
        raise FeatureTableError(f"{path}: line {reader.line_num} is not a prediction: {error}") from error
    return {row.feature: row for row in rows}


def _to_join(table: FeatureTable, on: Sequence[str]) -> FeatureTable:
    """Means of wells, unless fields of view are joined."""
    site = {joined_name(name) for name in table.site_column()}
    return table if site.intersection(map(joined_name, on)) else table.of_wells()


def _joined(wells: FeatureTable, profiles: FeatureTable, on: Sequence[str]) -> tuple[Any, Any]:
    """Rows of the wells that have features, and the rows of those features."""
    import pandas as pd

    left = pd.DataFrame({name: wells.column(name) for name in on}).assign(row=range(len(wells.metadata)))
    right = pd.DataFrame({name: profiles.column(name) for name in on}).assign(other=range(len(profiles.metadata)))
    left, right = (table[(table[list(on)] != "").all(axis=1)] for table in (left, right))  # a blank is no name
    if right.duplicated(list(on)).any():
        raise FeatureTableError(
            f"{', '.join(on)} identifies {int(right.duplicated(list(on)).sum())} wells of the features more than once"
        )
    both = left.merge(right, on=list(on))
    if both.empty:
        raise FeatureTableError(f"no well is in both tables by {', '.join(on)}")
    return both["row"].to_numpy(), both["other"].to_numpy()


def _frame(profiles: FeatureTable, rows: Any) -> pd.DataFrame:  # noqa: ANN401  (an index array)
    import pandas as pd

    return pd.DataFrame(profiles.features[rows], columns=profiles.names)


@contextmanager
def recorder(output: Path | None, features: int) -> Iterator[Callable[[FeaturePrediction], None]]:
    """Adds each prediction to the file as soon as it is made, and shows progress."""
    from tqdm import tqdm

    with tqdm(total=features, unit=" features", desc="predict", mininterval=2, disable=None) as bar:
        if output is None:
            yield lambda _: (bar.update(), None)[1]
            return
        kept = list(read_predictions(output).values()) if output.exists() else []
        temporary = output.with_name(f".{output.name}.{os.getpid()}.tmp")  # drops an incomplete last line
        with temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
            writer.writeheader()
            writer.writerows(map(_row, kept))
            file.flush()
            os.fsync(file.fileno())
            temporary.replace(output)

            def record(prediction: FeaturePrediction) -> None:
                writer.writerow(_row(prediction))
                file.flush()
                bar.update()

            yield record


def _row(prediction: FeaturePrediction) -> dict[str, Any]:
    values = asdict(prediction)
    return values | {name: csv_text(values[name]) for name in ("feature", "category")}


def _figure(predictions: Sequence[FeaturePrediction], output: Path, compare: Path) -> str:
    from analysis.cellprofiler.figure import predicted_features
    from analysis.figures.save import save

    other = list(read_predictions(compare).values())
    figure = predicted_features(other, predictions, (compare.stem, output.stem))
    return str(*save(figure, output.with_name(output.stem), ["png"]))
