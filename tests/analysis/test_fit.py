"""`python -m analysis.fit` on tables of results: its output, the input it accepts, and its errors."""

import json
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest

from analysis.fit import main

X = np.geomspace(1e18, 1e22, 14)


def table(path, **columns):
    pd.DataFrame(columns).to_csv(path, index=False)
    return str(path)


def fit(capsys, *arguments):
    assert main([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def loss(x, noise=0.004, seed=0):
    return (1.7 + 5e5 * x**-0.3) * np.exp(noise * np.random.default_rng(seed).normal(size=len(x)))


def test_help_is_quick_and_loads_no_pandas():
    code = "import sys\nfrom analysis.fit import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
    begin = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code + "print({'pandas', 'scipy', 'torch'} & set(sys.modules))"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip().endswith("set()")
    assert "--predict-at" in done.stdout
    assert time.perf_counter() - begin < 5  # one second on an idle machine


def test_groups_are_fitted_separately_scored_on_their_held_out_rows_and_extrapolated(tmp_path, capsys):
    rows = {"Flops": np.tile(X, 2), "curve": ["a"] * 14 + ["b"] * 14, "train": np.tile(X <= 2e21, 2).astype(int)}
    rows["Test Loss"] = np.concatenate([loss(X), 2 * loss(X, seed=1)])
    path = tmp_path / "t.csv"
    pd.DataFrame(rows).sample(frac=1, random_state=0).to_csv(path, index=False)
    found = fit(capsys, str(path), "--x", "flops", "--y", "test_loss", "--group", "curve", "--train-where", "train==1",
                "--predict-at", "1e23", "1e24")  # fmt: skip
    groups = {group["group"]: group for group in found["groups"]}
    assert set(groups) == {"a", "b"}
    for name, factor in (("a", 1), ("b", 2)):
        group = groups[name]
        assert (group["n_train"], group["held_out"]["n"]) == (11, 3)
        assert group["held_out"]["rmse_log"] < 0.02
        first = group["predictions"][0]
        assert first["x"] == 1e23
        assert first["low"] < factor * (1.7 + 5e5 * 1e23**-0.3) < first["high"]
        assert {"n", "convergence", "rolling origin", "leave-one-out influence", "two factors"} <= {
            check["check"] for check in group["checklist"]
        }
    assert found["summary"]["groups"] == 2


def test_accuracy_in_per_cent_stays_below_its_bound(tmp_path, capsys):
    path = table(tmp_path / "t.csv", compute=X, Accuracy=100 * (0.95 - 0.6 * (X / 1e18) ** -0.15))
    found = fit(capsys, path, "--x", "compute", "--y", "accuracy", "--predict-at", "1e25")
    assert (found["metric"]["kind"], found["metric"]["bound"]) == ("share", 100)
    prediction = found["groups"][0]["predictions"][0]
    assert 87 < prediction["y"] < 95
    assert prediction["high"] <= 100


def test_runs_that_stopped_before_they_were_annealed_are_left_out_with_a_note(tmp_path, capsys):
    """Four of 14 runs have twice the loss and say that they were not annealed; two do not say."""
    annealed = ["False"] * 4 + ["", ""] + ["True"] * 8
    values = np.where(np.arange(14) < 4, 2.0, 1.0) * loss(X)
    path = table(tmp_path / "t.csv", flops=X, loss=values, annealed=annealed)
    apart = table(tmp_path / "apart.csv", flops=X[4:], loss=values[4:])
    words = ["--x", "flops", "--y", "loss", "--predict-at", "1e23"]
    (group,), (alone,) = (fit(capsys, file, *words)["groups"] for file in (path, apart))
    assert group["n_train"] == 10
    assert group["predictions"] == alone["predictions"]
    notes = [check["detail"] for check in group["checklist"] if check["check"] == "rows left out"]
    assert notes == [
        "4 rows left out: training stopped before the learning rate had decayed (--include-unannealed keeps them)",
        "2 rows do not say whether the learning rate had decayed, and are kept",
    ]
    (every,) = fit(capsys, path, *words, "--include-unannealed")["groups"]
    assert every["n_train"] == 14
    assert main([path, *words, "--train-where", "flops < 1e20"]) == 0
    assert "rows left out: 4 rows left out" in capsys.readouterr().out


def test_a_table_of_stopped_runs_alone_is_an_error_that_says_so(tmp_path, capsys):
    path = table(tmp_path / "t.csv", flops=X, loss=loss(X), annealed=[False] * 14)
    assert main([path, "--x", "flops", "--y", "loss"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "every row stopped before its learning rate had decayed; --include-unannealed" in line


def test_two_columns_fit_a_joint_law(tmp_path, capsys):
    size, data = (grid.ravel() for grid in np.meshgrid(np.geomspace(1e7, 1e10, 6), np.geomspace(1e9, 1e12, 6)))
    noise = np.exp(0.002 * np.random.default_rng(0).normal(size=36))
    path = table(tmp_path / "t.csv", N=size, D=data, loss=(1.7 + 400 * size**-0.34 + 410 * data**-0.28) * noise)
    found = fit(capsys, path, "--x", "N", "D", "--y", "loss", "--predict-at", "7e10,1.4e12")["groups"][0]
    parameters = found["parameters"]
    assert parameters["alpha"]["low"] < 0.34 < parameters["alpha"]["high"]
    assert parameters["beta"]["low"] < 0.28 < parameters["beta"]["high"]
    assert found["predictions"][0]["y"] == pytest.approx(1.7 + 400 * 7e10**-0.34 + 410 * 1.4e12**-0.28, rel=0.01)


def test_numbers_as_people_write_them_are_read(tmp_path, capsys):
    path = tmp_path / "t.tsv"
    pd.DataFrame({"params": ["70M", "160M", "1.4B", "6.9B", "12B", "n/a"], "ppl": ["9", "8.1", "7", "6.5", "6.3", "6"]}
                 ).to_csv(path, index=False, sep="\t")  # fmt: skip
    found = fit(capsys, str(path), "--x", "params", "--y", "ppl", "--predict-at", "7e10")["groups"][0]
    assert found["n_train"] == 5
    assert "first on line 7" in " ".join(found["warnings"])
    assert 5 < found["predictions"][0]["y"] < 6.3


def test_an_unidentified_parameter_is_a_range_and_never_a_point(tmp_path, capsys):
    path = table(tmp_path / "t.csv", c=X[:6], loss=(X[:6] / 1e18) ** -0.1 * (1 + 0.01 * np.sin(np.arange(6) * 9)))
    group = fit(capsys, path, "--x", "c", "--y", "loss", "--law", "power_offset")["groups"][0]
    plateau = group["parameters"]["E"]
    assert plateau["value"] is None
    assert plateau["low"] == 0
    assert any("not identified" in note for note in group["notes"])


def test_compute_that_is_really_one_factor_is_reported(tmp_path, capsys):
    cost, crops = (grid.ravel() for grid in np.meshgrid(np.geomspace(1e9, 1e12, 5), np.geomspace(1e6, 1e9, 5)))
    recall = 0.3 + 0.05 * np.log10(cost / 1e9) + 0.002 * np.random.default_rng(0).normal(size=25)
    path = table(tmp_path / "t.csv", compute=cost * crops, cost=cost, crops=crops, recall=recall)
    group = fit(capsys, path, "--x", "compute", "--y", "recall", "--factors", "cost", "crops")["groups"][0]
    assert any("carried by cost alone" in warning for warning in group["warnings"])


def test_compute_known_only_within_bounds_widens_the_interval(tmp_path, capsys):
    noise = 0.01 * np.random.default_rng(0).normal(size=14)
    path = table(tmp_path / "t.csv", c=X, lo=X / 30, hi=X * 30, r=0.1 + 0.02 * np.log10(X) + noise)
    arguments = [path, "--x", "c", "--y", "r", "--law", "log_linear", "--predict-at", "1e24"]
    plain, bounded = (fit(capsys, *arguments, *extra)["groups"][0]["predictions"][0]
                      for extra in ([], ["--x-low", "lo", "--x-high", "hi"]))  # fmt: skip
    assert bounded["high"] - bounded["low"] > 1.05 * (plain["high"] - plain["low"])


def test_a_group_that_cannot_be_fitted_does_not_stop_the_others(tmp_path, capsys):
    path = table(tmp_path / "t.csv", c=[*X, 1e18], loss=[*loss(X), 3.0], curve=["a"] * 14 + ["b"])
    groups = fit(capsys, path, "--x", "c", "--y", "loss", "--group", "curve")["groups"]
    assert "error" not in groups[0]
    assert groups[1]["error"].startswith("1 points at 1 distinct x")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--x", "flop", "--y", "loss"], "--x: no column 'flop'; did you mean 'flops'? (columns: flops, loss)"),
        (["--x", "flops", "--y", "loss", "--train-where", "foo > 1"], "--train-where 'foo > 1': name 'foo'"),
        (["--x", "flops", "--y", "loss", "--train-where", "flops > 1e30"], "no row of 14 fits"),
        (["--x", "flops", "--y", "loss", "--law", "zipf"], "unknown law 'zipf'; known are auto,"),
        (["--x", "flops", "--y", "loss", "--predict-at", "big"], "needs 1 positive number(s), as 1e21 or 70B"),
        (["--x", "flops", "--y", "loss", "--predict-at", "-1,2"], "each place needs 1 positive number(s)"),
        (["--x", "flops", "--y", "loss", "--predict-at", "nan"], "--predict-at nan: each place needs 1 positive"),
        (["--x", "flops", "flops", "--y", "loss"], "--x takes one to 3 different columns, not flops, flops"),
        (["--x", "flops", "--y", "loss", "--frontier-at", "1e21"], "--frontier-at splits compute between the columns"),
        (["--x", "flops", "--y", "loss", "--law", "logit_linear"], "14 of 14 values of the metric have no logit"),
        (["--x", "flops", "--y", "loss", "--confidence", "0.999"], "confidence 0.999 is not calibrated"),
    ],
)
def test_errors_are_one_plain_line(tmp_path, capsys, arguments, message):
    path = table(tmp_path / "t.csv", flops=X, loss=loss(X))
    arguments = [f"--predict-at={arguments[-1]}" if word == "--predict-at" else word for word in arguments]
    arguments = [word for word in arguments if word not in ("big", "-1,2", "nan")]
    assert main([path, *arguments]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "first", "last", "kind", "most"),
    [
        ("top1_error", 0.6, 0.2, "loss", 1),  # a name that could be either: the trend decides
        ("Top-5 Error (%)", 60.0, 20.0, "loss", 100),
        ("1 - acc", 0.6, 0.2, "loss", 1),
        ("top1", 0.2, 0.6, "share", 1),
        ("BLEU", 12.0, 35.0, "share", 100),
    ],
)
def test_bounded_metrics_stay_within_their_range_at_any_distance(tmp_path, capsys, name, first, last, kind, most):
    falling = (X / X[0]) ** -0.2
    noise = np.exp(0.01 * np.random.default_rng(0).normal(size=14))
    path = table(tmp_path / "t.csv", flops=X, **{name: last + (first - last) * falling * noise})
    found = fit(capsys, path, "--x", "flops", "--y", name, "--predict-at", "1e2", "1e23", "1e40")
    assert found["metric"]["kind"] == kind
    for one in found["groups"][0]["predictions"]:
        assert 0 <= one["low"] <= one["y"] <= one["high"] <= most


@pytest.mark.parametrize("runs", [3, 4, 5])
def test_few_points_do_not_pretend_to_know_a_plateau(tmp_path, capsys, runs):
    """Three to five clean points of a bare power law: the average has a plateau, and its interval includes none."""
    x = np.geomspace(1e18, 1e21, runs)
    path = table(tmp_path / "t.csv", flops=x, loss=3 * (x / 1e18) ** -0.1)
    one = fit(capsys, path, "--x", "flops", "--y", "loss", "--predict-at", "1e24")["groups"][0]["predictions"][0]
    assert one["low"] < 3 * 1e6**-0.1 < one["high"]


def test_solved_and_unsolved_tasks_are_shares_too(tmp_path, capsys):
    """Accuracies of exactly 0 are fitted; those of exactly 1 have no logarithm: left out of a fit, but scored."""
    x = np.geomspace(1, 1e24, 10)
    path = table(tmp_path / "t.csv", c=x, acc=[0, 0, 0.02, 0.1, 0.3, 0.6, 0.8, 0.95, 1, 1])
    arguments = ["--x", "c", "--y", "acc", "--train-where", "c < 1e23", "--predict-at", "1e30"]
    group = fit(capsys, path, *arguments)["groups"][0]
    assert (group["n_train"], group["held_out"]["n"]) == (8, 1)
    assert "1 rows with acc at or beyond 1 left out" in " ".join(group["warnings"])
    assert 0.9 < group["predictions"][0]["y"] <= 1


def test_a_diverged_run_does_not_make_the_law_rise(tmp_path, capsys):
    path = table(tmp_path / "t.csv", flops=X, loss=[*loss(X[:-1]), 1e6])
    group = fit(capsys, path, "--x", "flops", "--y", "loss", "--predict-at", "1e24")["groups"][0]
    assert group["predictions"][0]["y"] <= 1e6


def test_a_split_of_compute_comes_with_a_joint_law(tmp_path, capsys):
    size, data = (grid.ravel() for grid in np.meshgrid(np.geomspace(1e7, 1e10, 6), np.geomspace(1e9, 1e12, 6)))
    path = table(tmp_path / "t.csv", N=size, D=data, loss=1.7 + 400 * size**-0.34 + 410 * data**-0.28)
    group = fit(capsys, path, "--x", "N", "D", "--y", "loss", "--frontier-at", "5e21", "5e22")["groups"][0]
    split = group["frontier"]
    assert split["size_exponent"]["value"] == pytest.approx(0.28 / 0.62, abs=0.002)
    assert split["size_exponent"]["low"] <= 0.28 / 0.62 + 1e-3
    assert split["unidentified"] == []
    assert [at["compute"] for at in split["at"]] == [5e21, 5e22]
    assert all(6 * at["size"] * at["data"] == pytest.approx(at["compute"]) for at in split["at"])


@pytest.mark.slow
def test_three_columns_fit_a_law_with_repeated_data(tmp_path, capsys):
    """Model size, unique images, crops seen: the known worth of repeats is recovered."""

    def known(size, unique, seen):
        effective = unique * (1 + 8 * (1 - np.exp(-(seen / unique - 1) / 8)))
        return 0.3 + 20 * size**-0.2 + 30 * effective**-0.25

    grid = np.meshgrid(np.geomspace(1e7, 1e10, 4), np.geomspace(1e5, 1e8, 4), [1.0, 3.0, 10.0, 50.0])
    size, unique, epochs = (one.ravel() for one in grid)
    noise = np.exp(0.003 * np.random.default_rng(0).normal(size=64))
    loss = known(size, unique, unique * epochs) * noise
    path = table(tmp_path / "t.csv", params=size, images=unique, crops=unique * epochs, loss=loss)
    arguments = [path, "--x", "params", "images", "crops", "--y", "loss", "--predict-at", "1e10,1e8,1e10"]
    group = fit(capsys, *arguments)["groups"][0]
    one = group["predictions"][0]
    assert one["low"] < known(1e10, 1e8, 1e10) < one["high"]
    assert group["parameters"]["R"]["low"] < 8 < group["parameters"]["R"]["high"]
    assert group["frontier"]["data_never_repeated"]
    assert main(arguments) == 0
    assert "best split" not in capsys.readouterr().out
    assert main([*arguments, "--frontier-at", "1e21"]) == 0
    assert "best split of C = 6 N D, if no data were repeated" in capsys.readouterr().out
    assert main([*arguments, "--frontier-at", "1e21", "--unique", "1e8"]) == 0
    out = capsys.readouterr().out
    assert "more epochs do not hurt" in out
    assert "at C 1e+21 with 1e+08 unique: N " in out


def test_unique_data_and_data_seen_in_the_wrong_order_are_an_error(tmp_path, capsys):
    grid = np.meshgrid(np.geomspace(1e7, 1e10, 3), np.geomspace(1e5, 1e8, 3), [2.0, 10.0])
    size, unique, epochs = (one.ravel() for one in grid)
    path = table(tmp_path / "t.csv", params=size, images=unique, crops=unique * epochs, loss=1 + size**-0.1)
    assert main([path, "--x", "params", "crops", "images", "--y", "loss"]) == 2
    assert "more unique data than data seen: the inputs are model size, unique data" in capsys.readouterr().err


def test_an_amount_of_unique_data_needs_a_law_of_repeats(tmp_path, capsys):
    path = table(tmp_path / "t.csv", flops=[1e18, 1e19, 1e20, 1e21], loss=[4.0, 3.5, 3.1, 2.8])
    assert main([path, "--x", "flops", "--y", "loss", "--unique", "1e8"]) == 2
    assert "--unique says how much data --frontier-at may show" in capsys.readouterr().err


def test_pinned_runs_need_no_bounds_and_bounded_runs_no_x(tmp_path, capsys):
    recall = 0.1 + 0.02 * np.log10(X)
    blank = np.full(14, np.nan)
    blank[[3, 7]] = X[[3, 7]]
    x, low, high = np.where(np.isnan(blank), X, np.nan), blank / 10, blank * 10
    path = table(tmp_path / "t.csv", c=x, lo=low, hi=high, r=recall)
    arguments = ["--x", "c", "--y", "r", "--x-low", "lo", "--x-high", "hi", "--law", "log_linear"]
    group = fit(capsys, path, *arguments)["groups"][0]
    assert group["n_train"] == 14
    assert group["parameters"]["b"]["value"] == pytest.approx(0.02, rel=1e-6)


def test_commas_are_decimal_points_where_semicolons_separate_columns(tmp_path, capsys):
    path = tmp_path / "t.csv"
    path.write_text("c;loss\n1000;2,5\n10000;2,1\n100000;1,9\n1000000;1,8\n")
    group = fit(capsys, str(path), "--x", "c", "--y", "loss", "--predict-at", "10M")["groups"][0]
    assert 1.4 < group["predictions"][0]["y"] < 1.8


def test_a_missing_file_is_named(capsys):
    assert main(["nowhere.csv", "--x", "a", "--y", "b"]) == 2
    assert "nowhere.csv: no such file" in capsys.readouterr().err


def test_the_text_has_the_same_numbers(tmp_path, capsys):
    path = table(tmp_path / "t.csv", flops=X, loss=loss(X))
    found = fit(capsys, path, "--x", "flops", "--y", "loss", "--predict-at", "1e23")["groups"][0]
    assert main([path, "--x", "flops", "--y", "loss", "--predict-at", "1e23"]) == 0
    printed = capsys.readouterr().out
    assert f"{found['predictions'][0]['y']:.4g}" in printed
    assert "leave-one-out influence" in printed


TRUTH = pd.DataFrame({"params": [f"{n}" for n in range(14)], "flops": X, "loss": np.round(loss(X), 3)})


def comma(value: object) -> str:
    return f"{value}".replace(".", ",")


@pytest.mark.parametrize("separator", ["\t", ";"])
def test_decimal_commas_and_a_word_in_a_column_of_numbers_change_no_number(tmp_path, capsys, separator):
    """Losses have three digits after the comma, so that only compute shows what commas are."""
    arguments = ("--x", "flops", "--y", "loss", "--predict-at", "1e23")
    TRUTH.to_csv(tmp_path / "truth.csv", index=False)
    truth = fit(capsys, str(tmp_path / "truth.csv"), *arguments)["groups"][0]
    written = TRUTH.assign(flops=TRUTH["flops"].map(comma), loss=TRUTH["loss"].map(lambda y: comma(f"{y:.3f}")))
    written.loc[len(written)] = ["14", "7e22", "diverged"]
    written.to_csv(tmp_path / "t.tsv", sep=separator, index=False)
    group = fit(capsys, str(tmp_path / "t.tsv"), *arguments)["groups"][0]
    assert group["predictions"] == truth["predictions"]
    assert any("left out, first on line 16" in warning for warning in group["warnings"])


def test_thousands_that_nothing_confirms_are_said(tmp_path, capsys):
    path = table(tmp_path / "t.tsv", flops=[f"{x:.0f}" for x in X], loss=[f"{n},{500 - n}" for n in range(14, 0, -1)])
    group = fit(capsys, path, "--x", "flops", "--y", "loss")["groups"][0]
    assert any("loss: commas separate thousands, so 14,486 is 14486" in warning for warning in group["warnings"])


def test_a_number_that_cannot_be_read_is_an_error_with_its_line(tmp_path, capsys):
    path = table(tmp_path / "t.csv", flops=X, loss=[*map(str, loss(X)[:-1]), "3.1.2"])
    assert main([path, "--x", "flops", "--y", "loss"]) == 2
    assert "line 15: column 'loss' holds '3.1.2', which is not a number" in capsys.readouterr().err


@pytest.mark.slow
def test_columns_of_one_name_are_refused_and_index_levels_are_columns(tmp_path, capsys):
    arguments = ["--x", "flops", "--y", "loss", "--predict-at", "1e23"]
    path = tmp_path / "t.csv"
    path.write_text("flops,loss,loss\n1e18,8.3,3.3\n")
    assert main([str(path), *arguments]) == 2
    assert "several columns are called 'loss'" in capsys.readouterr().err
    TRUTH.to_csv(path, index=False)
    truth = fit(capsys, str(path), *arguments)["groups"][0]["predictions"]
    TRUTH.set_index("flops").to_parquet(tmp_path / "t.pq")
    assert fit(capsys, str(tmp_path / "t.pq"), *arguments)["groups"][0]["predictions"] == truth
    TRUTH.to_csv(tmp_path / "t.csv.gz", index=False)
    assert fit(capsys, str(tmp_path / "t.csv.gz"), *arguments)["groups"][0]["predictions"] == truth


@pytest.mark.slow
def test_groups_keep_their_names_and_blanks_are_a_group(tmp_path, capsys):
    names = ["001"] * 14 + ["NA"] * 14 + [""] * 14
    path = table(tmp_path / "t.csv", flops=np.tile(X, 3), loss=np.tile(loss(X), 3), model=names)
    found = fit(capsys, path, "--x", "flops", "--y", "loss", "--group", "model")
    assert [group["group"] for group in found["groups"]] == ["001", "NA", "(blank)"]
