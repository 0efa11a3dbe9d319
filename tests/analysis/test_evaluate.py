"""The evaluate command: its output, its counts, and one-line errors."""

import json
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
from planted_screen import CORRECT, planted_screen, recall
from printed import read_table

from analysis import evaluate


@pytest.fixture
def screen(tmp_path):
    return planted_screen(tmp_path)


def test_recall_of_planted_pairs_and_what_was_left_out(screen, capsys):
    assert evaluate.main([*recall(screen, *CORRECT), "--json", "--thresholds", "0.05:0.95", "0:0.9"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["wells"], found["genes"], found["wells_without_gene"]) == (64, 12, 40)
    assert found["lists"]["pairs"] == {"rows": 10, "duplicates": 1, "self_pairs": 1, "empty": 1}
    both, wide = found["recall"]
    assert (both["pairs"], both["unknown_pairs"], both["unknown_genes"]) == (6, 1, 1)
    assert (both["protocol"], wide["low"], wide["high"]) == ("current/2", 0, 0.9)
    assert wide["recall"] == 1  # 66 pairs of genes: the six alike are the highest
    assert both["recall_low"] <= both["recall"] <= both["recall_high"]


def test_the_printed_recall_stands_under_its_heads(screen, capsys):
    """Six pairs of 66: the six alike are the highest cosines, so 0.9 of the null recalls all, and 1 is in its tail."""
    (screen / "pairs.csv").rename(screen / "a_list_with_a_long_name.csv")
    command = recall(screen, *CORRECT, "--thresholds", "0:0.9", "--bootstrap", "20")
    command[3] = str(screen / "a_list_with_a_long_name.csv")
    assert evaluate.main(command) == 0
    (row,) = read_table(capsys.readouterr().out, "source")
    assert row["source"] == "a_list_with_a_long_name"
    assert (row["tails"], row["recall"], row["low"], row["high"]) == ("0/0.9", "1.0000", "0.0000", "1.0000")
    low, high = row["interval"].split("-")
    assert (float(low) < 1, high, row["chance"]) == (True, "1.0000", "0.1000")
    assert (row["pairs"], row["unknown"]) == ("6", "1")


@pytest.mark.parametrize("correction", ["none", "centre_scale", "pca_centre_scale", "tvn"])
@pytest.mark.parametrize("protocol", ["current", "legacy"])
def test_every_correction_and_protocol_gives_a_table(screen, capsys, correction, protocol):
    more = [*CORRECT[2:], "--correct", correction, "--protocol", protocol, "--bootstrap", "0", "--guide", "treatment"]
    more.append("--no-placebos")
    assert evaluate.main(recall(screen, *more)) == 0
    assert f"protocol {protocol}/" in capsys.readouterr().out


def test_csv_files_with_any_columns_are_read(screen, capsys):
    table = pd.read_parquet(screen / "wells.parquet").rename(columns={"gene": "symbol"})
    table = table.rename(columns={f"feature_{i}": f"emb{i}" for i in range(8)})
    table.to_csv(screen / "wells.csv.gz", index=False)
    command = [
        "recall",
        str(screen / "wells.csv.gz"),
        "--pairs",
        str(screen / "pairs.csv"),
        "--key",
        "symbol",
        "--json",
    ]
    assert evaluate.main([*command, "--prefix", "emb"]) == 0
    assert json.loads(capsys.readouterr().out)["genes"] == 12


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--key", "symbol"], "no column 'symbol'; the metadata has key, experiment, gene, treatment"),
        (["--correct", "tvn"], "--correct tvn needs --control COLUMN=VALUE and --batch COLUMN"),
        ([*CORRECT[:4], "--control", "treatment=DMSO"], "no well has treatment=DMSO; treatment holds EMPTY_control"),
        ([*CORRECT[:4], "--control", "EMPTY_control"], "controls must be given as COLUMN=VALUE, not 'EMPTY_control'"),
        (["--thresholds", "5%"], "--thresholds are LOW:HIGH such as 0.05:0.95, not '5%'"),
        (["--prefix", "dim_"], "no column starts with 'dim_'"),
    ],
)
def test_options_that_do_not_fit_the_files_are_an_error_in_one_line(screen, capsys, more, message):
    assert evaluate.main(recall(screen, *more)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def spoil(folder, edit):
    path = folder / "wells.parquet"
    edit(pd.read_parquet(path)).to_parquet(path)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda t: t[(t["experiment"] == "e1") | (t["gene"] != "")], r"too few in e2 (0)"),
        (lambda t: pd.concat([t, t.head(2)]), "2 wells occur twice, the first is e1-0"),
        (lambda t: t.assign(**{f"feature_{i}": 1.0 for i in range(8)}), "all 8 features are constant"),
        (lambda t: t.assign(feature_3="x"), "feature 'feature_3' holds"),
        (lambda t: t.assign(**{f"feature_{i}": np.nan for i in range(8)}), "every feature has missing values"),
    ],
)
def test_wells_that_cannot_be_used_are_an_error_in_one_line(screen, capsys, edit, message):
    spoil(screen, edit)
    assert evaluate.main(recall(screen, *CORRECT)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_wells_without_values_and_constant_features_are_counted_or_harmless(screen, capsys):
    def holes(table):
        table.loc[0, [f"feature_{i}" for i in range(8)]] = np.nan
        return table.assign(feature_8=3.0)

    spoil(screen, holes)
    assert evaluate.main([*recall(screen, *CORRECT), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["excluded"]["wells_without_values"] == 1
    assert found["wells"] == 63


@pytest.mark.parametrize("text", ["entity1,entity2\n", "gene1,gene2\nA,B\n", "entity1,entity2\nX,Y\n"])
def test_a_list_that_cannot_be_used_is_an_error_in_one_line(screen, capsys, text):
    (screen / "pairs.csv").write_text(text)
    assert evaluate.main(recall(screen)) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize("command", [[], ["recall"], ["retrieval"], ["cellprofiler"]])
def test_help_answers_in_under_a_second_without_numpy(command):
    start = time.perf_counter()
    code = "import sys; from analysis import evaluate\ntry: evaluate.main(sys.argv[1:])\nexcept SystemExit: pass\n"
    code += "assert 'numpy' not in sys.modules"
    subprocess.run([sys.executable, "-c", code, *command, "--help"], check=True, stdout=subprocess.DEVNULL)
    assert time.perf_counter() - start < 5  # 0.1 s on a quiet machine; this one may be busy
