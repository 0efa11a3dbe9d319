"""`python -m analysis.fit --best-rate`: text, JSON and plot, and plain errors."""

import json

import numpy as np
import pytest

from analysis.fit import main

RATES = 1e-4 * 2.0 ** np.arange(5)


@pytest.fixture
def path(tmp_path):
    """Two sizes: the smaller one's optimum is 3e-4, the larger one's lies below the sweep."""
    rows = ["Model,Learning Rate,Loss"]
    for model, best in (("S", 3e-4), ("L", 2e-5)):
        rows += [f"{model},{rate},{2 * np.exp(0.02 * np.log(rate / best) ** 2)}" for rate in RATES]
    (tmp_path / "sweep.csv").write_text("\n".join(rows))
    return str(tmp_path / "sweep.csv")


def test_text_json_and_plot_say_the_same(path, tmp_path, capsys):
    words = [path, "--best-rate", "learning_rate", "--y", "loss", "--group", "model"]
    assert main([*words, "--json", "--plot", str(tmp_path / "plot")]) == 0
    found = json.loads(capsys.readouterr().out)
    small, large = found["sizes"]
    assert small["rate"] == pytest.approx(3e-4)
    assert (large["rate"], large["edge"], large["high"]) == (None, "lowest", None)
    assert (tmp_path / "plot.png").exists()
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert "S: best rate 0.0003, 90% interval" in printed
    assert "L: of 5 rates the best is 0.0001, the lowest of the sweep" in printed


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--best-rate", "rate"], "--best-rate: no column 'rate'"),
        (["--best-rate", "learning_rate", "--x", "model"], "--x cannot be used with it"),
        (["--x", "learning_rate", "--plot", "p"], "--plot draws best rates; it needs --best-rate"),
    ],
    ids=["unknown", "x", "plot"],
)
def test_errors_are_plain(path, capsys, words, message):
    assert main([path, "--y", "loss", *words]) == 2
    assert message in capsys.readouterr().err


def test_x_is_required_for_laws(path, capsys):
    with pytest.raises(SystemExit):
        main([path, "--y", "loss"])
    assert "required: --x (or --best-rate)" in capsys.readouterr().err
