"""CellProfiler prediction: A.6's transforms, scores, and a run that resumes.

Covers `prediction`, `files` and `figure`.
"""

import json

import numpy as np
import pandas as pd
import pytest
from printed import read_table

from analysis import evaluate
from analysis.cellprofiler.figure import predicted_features
from analysis.cellprofiler.files import read_predictions, recorder
from analysis.cellprofiler.prediction import (
    FeaturePrediction,
    category_of,
    fit_transform,
    predict_features,
    r2,
    table7,
)
from analysis.embeddings.feature_tables import FeatureTableError


def test_skewed_features_are_transformed_as_in_the_supplement():
    normal = np.random.default_rng(0).normal(size=5000)
    right, left = np.exp(normal) - 5, 100 - np.exp(normal)
    assert fit_transform(normal).kind == "none"
    assert fit_transform(right).kind == "log"
    np.testing.assert_allclose(fit_transform(right).apply(right), np.log1p(right - right.min()))
    squared = fit_transform(left)
    assert (squared.kind, squared.shift) == ("square", 0.0 if left.min() > 0 else left.min())
    assert np.array_equal(np.argsort(squared.apply(left)), np.argsort(left))  # order is kept
    assert fit_transform(right).apply(np.array([-99.0])) == 0  # a test well below the training minimum


def test_scores_by_hand():
    assert r2(np.array([1.0, 2, 3]), np.array([1.0, 2, 3])) == 1
    assert r2(np.array([1.0, 2, 3]), np.array([2.0, 2, 2])) == 0
    assert r2(np.array([1.0, 2, 3]), np.array([3.0, 2, 1])) == -3
    names = ["Cells_Texture_Contrast_DNA_3_00", "Nuclei_AreaShape_Area", "Mine"]
    assert [category_of(name) for name in names] == ["Texture", "AreaShape", "other"]
    scores = {"Cells_AreaShape_A": 0.1, "Cells_AreaShape_B": 0.5, "Cells_AreaShape_C": 0.6, "Mine": 0.9}
    table = table7(
        [FeaturePrediction(name, category_of(name), score, "none", 0.1, 1.0, 3) for name, score in scores.items()]
    )
    assert table.to_dict("records") == [
        {"category": "AreaShape", "features": 3, "median_r2": 0.5, "median_absolute_deviation": pytest.approx(0.1)},
        {"category": "other", "features": 1, "median_r2": 0.9, "median_absolute_deviation": 0.0},
    ]


def experiments(wells=120, width=8, seed=0):
    """Two experiments; texture follows the embeddings, intensity exponentially, area not at all."""
    rng = np.random.default_rng(seed)
    weights, parts = rng.normal(size=width) / width**0.5, []
    for _ in range(2):
        embeddings = rng.normal(size=(wells, width))
        signal = embeddings @ weights
        table = {
            "Cells_Texture_A": signal + 0.1 * rng.normal(size=wells),
            "Cells_Intensity_B": np.exp(signal + 0.1 * rng.normal(size=wells)),
            "Cells_AreaShape_C": rng.normal(size=wells),
            "Cells_Neighbors_D": np.ones(wells),
        }
        parts.append((embeddings, pd.DataFrame(table)))
    return parts


@pytest.mark.parametrize("standardise", ["train", "each"])
def test_features_in_the_embeddings_are_predicted_in_another_experiment(standardise):
    predictions, constant = predict_features(*experiments(), standardise=standardise)
    scores = {found.feature: found.r2 for found in predictions}
    assert constant == ["Cells_Neighbors_D"]
    assert scores["Cells_Texture_A"] > 0.9
    assert scores["Cells_Intensity_B"] > 0.8
    assert scores["Cells_AreaShape_C"] < 0.1
    assert [found.transform for found in predictions] == ["none", "log", "none"]


def test_existing_predictions_are_not_computed_again():
    train, test = experiments()
    given = FeaturePrediction("Cells_Texture_A", "Texture", 0.123, "none", 0.5, 1.0, 1)
    made = []
    found, _ = predict_features(train, test, done={"Cells_Texture_A": given}, progress=made.append)
    assert found[0] == given
    assert [row.feature for row in made] == ["Cells_Intensity_B", "Cells_AreaShape_C"]


def test_wells_and_features_must_fit():
    (train, table), test = experiments()
    with pytest.raises(ValueError, match="different features"):
        predict_features((train, table.drop(columns="Cells_Texture_A")), test)
    with pytest.raises(ValueError, match="120 training embeddings, but features of 119 wells"):
        predict_features((train, table.head(119)), test)
    with pytest.raises(ValueError, match="1 features of the training wells hold NaN"):
        predict_features((train, table.assign(Cells_Texture_A=np.nan)), test)


@pytest.fixture
def files(tmp_path):
    parts = experiments()
    rows, features = [], []
    for name, (embeddings, table) in zip(("e1", "e2"), parts, strict=True):
        keys = [f"{name}-{well}" for well in range(len(table))]
        columns = [f"feature_{i}" for i in range(embeddings.shape[1])]
        rows.append(pd.DataFrame(embeddings, columns=columns).assign(key=keys, experiment=name))
        features.append(table.assign(key=keys))
    pd.concat(rows).to_parquet(tmp_path / "wells.parquet")
    pd.concat(features).sample(frac=1, random_state=0).to_csv(tmp_path / "features.csv", index=False)
    return tmp_path


def command(folder, *more):
    named = ["--on", "key", "--experiment", "experiment", "--train", "e1", "--test", "e2"]
    return ["cellprofiler", str(folder / "wells.parquet"), "--features", str(folder / "features.csv"), *named, *more]


def test_the_command_resumes_and_draws_figure_9(files, capsys):
    output = files / "predictions.csv"
    assert evaluate.main(command(files, "--output", str(output), "--json")) == 0
    first = json.loads(capsys.readouterr().out)
    assert (first["train_wells"], first["test_wells"], first["features"], first["constant_features"]) == (
        120,
        120,
        3,
        1,
    )
    whole = read_predictions(output)
    lines = output.read_text().splitlines(keepends=True)
    output.write_text("".join(lines[:2]) + lines[2][:-9])  # killed while writing the second
    assert list(read_predictions(output)) == ["Cells_Texture_A"]
    other = files / "other.csv"
    other.write_text("".join(lines))
    assert evaluate.main(command(files, "--output", str(output), "--compare", str(other))) == 0
    (row, *_) = read_table(capsys.readouterr().out, "category")
    expected = first["table7"][0]
    assert (row["category"], row["features"]) == (expected["category"], str(expected["features"]))
    assert row["median R2"] == f"{expected['median_r2']:.3f}"
    assert row["MAD"] == f"{expected['median_absolute_deviation']:.3f}"
    assert read_predictions(output) == whole
    assert (files / "predictions.png").stat().st_size > 5000


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--train", "e9"], "no well with features has experiment=e9; there are e1, e2"),
        (["--on", "well"], "no column 'well'"),
        (["--compare", "x.csv"], "give --output too"),
    ],
)
def test_options_that_do_not_fit_are_an_error_in_one_line(files, capsys, more, message):
    assert evaluate.main(command(files, *more)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_names_of_features_are_no_formulas_and_read_back(tmp_path):
    names = ["=1+1", "-x", "'y", 'a,"b"', "Cells_Texture_A", "a\rb", "a\u2028b"]
    predictions = [FeaturePrediction(name, "@other", 0.5, "none", 0.1, 0.2, 3) for name in names]
    output = tmp_path / "predictions.csv"
    with recorder(output, len(names)) as record:
        for prediction in predictions:
            record(prediction)
    assert read_predictions(output) == dict(zip(names, predictions, strict=True))
    table = pd.read_csv(output)
    assert table["feature"].tolist() == ["'=1+1", "'-x", "''y", *names[3:]]
    assert table["r2"].tolist() == [0.5] * len(names)
    with recorder(output, 0):  # a second run keeps what is there
        pass
    assert read_predictions(output) == dict(zip(names, predictions, strict=True))
    drawn = predicted_features(predictions, predictions, ("$\\frac$", "$x$"))
    assert not drawn.axes[0].xaxis.label.get_parse_math()
    drawn.savefig(tmp_path / "figure.png")


def test_a_file_without_predictions_is_not_appended_to(tmp_path):
    (tmp_path / "x.csv").write_text("a,b\n1,2\n")
    with pytest.raises(FeatureTableError, match="not predictions; the header must be feature,category"):
        read_predictions(tmp_path / "x.csv")
