"""A LaTeX table with names as they are, and marks of runs that were not annealed."""

import re
import shutil
import subprocess

import pandas as pd
import pytest

from analysis.figures.latex_table import latex_table, tex

SPECIAL = "\\ { } _ % & # $ ~ ^ < > | [ ] *"


def points(**changes):
    row = {"model": "vit", "dataset": "rxrx3", "seed": 0, "source": "CORUM", "recall": 0.5, "recall_low": 0.4,
           "recall_high": 0.6, "trained": True}  # fmt: skip
    rows = [row | {"model": f"vit_{number}"} for number in range(4)]
    return pd.DataFrame(rows).assign(**changes)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a_b", r"a\_b"),
        ("100%", r"100\%"),
        ("{x}", r"\{x\}"),
        (r"\input{x}", r"\textbackslash{}input\{x\}"),
        ("a~b^c", r"a\textasciitilde{}b\textasciicircum{}c"),
        ("$x$ & #1", r"\$x\$ \& \#1"),
        ("[1]", "{[}1]"),
        ("*", "{*}"),
        ("two\nlines\r\n", "two lines"),
        (None, "--"),
        (float("nan"), "--"),
        (3, "3"),
    ],
)
def test_names_are_escaped(text, expected):
    assert tex(text) == expected


def test_every_special_sign_is_escaped_in_heads_and_cells():
    table = latex_table(points(source=SPECIAL, model=SPECIAL, dataset="a\\\\b"))
    for line in table.splitlines()[2:-2]:
        if line != r"\midrule":
            bare = re.sub(r"\\(textbackslash|textascii\w+|textless|textgreater|textbar|[{}_%&#$])", "", line)
            assert bare.endswith(r" \\")
            assert bare[:-3].count("&") == 3  # only those between the cells
            assert not set(bare[:-3]) & set("_%#$~^<>|\\")
            assert not bare.startswith(("[", "*"))


def test_runs_that_stopped_or_do_not_say_are_marked_with_a_note():
    annealed = pd.array([True, False, None, None], dtype="boolean")
    lines = latex_table(points(annealed=annealed, trained=[True, True, True, False])).splitlines()
    models = [line.partition(" & ")[0] for line in lines[4:8]]
    assert models == [r"vit\_0", r"vit\_1$^\dagger$", r"vit\_2$^\ddagger$", r"vit\_3"]
    assert r"\multicolumn{4}{l}{$^\dagger$ stopped before its learning rate had decayed} \\" in lines
    assert r"\multicolumn{4}{l}{$^\ddagger$ not known whether its learning rate had decayed} \\" in lines
    for table in (latex_table(points()), latex_table(points(annealed=True))):
        assert "dagger" not in table


def test_a_recall_without_an_interval_has_none():
    assert " & 0.500 \\\\" in latex_table(points(recall_low=float("nan"), recall_high=None))


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_latex_takes_the_table(tmp_path):
    table = latex_table(points(source=SPECIAL, model=SPECIAL, annealed=False))
    text = rf"\documentclass{{article}}\usepackage{{booktabs}}\begin{{document}}{table}\end{{document}}"
    (tmp_path / "t.tex").write_text(text)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "t.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_every_run_has_a_row_and_what_tells_runs_apart_a_column():
    """Two ends of one run at one point of an axis, and one whose place has no name of its own."""
    ends = points(model="vit", cell=["a", "b", "c", "d"], end=[0.5, 1.0, 1.0, 1.0], mask_ratio=[0.5, 0.5, None, None])
    lines = latex_table(ends, {"mask_ratio": "Mask_ratio", "end": "End"}).splitlines()
    assert lines[0] == r"\begin{tabular}{llrrrr}"
    assert lines[2] == r"Model & Dataset & Seed & Mask\_ratio & End & CORUM \\"
    assert [line.split(" & ")[3:5] for line in lines[4:8]] == [
        ["0.5", "0.5"],
        ["0.5", "1.0"],
        ["--", "1.0"],
        ["--", "1.0"],
    ]
