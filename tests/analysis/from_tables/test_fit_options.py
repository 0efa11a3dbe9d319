"""The options of `python -m analysis.fit`: lists that grow, and what is said of a mistake."""

import pytest

from analysis.fit import __doc__ as about
from analysis.from_tables.fit_options import fit_parser


def test_columns_may_follow_one_option_or_repeat_it():
    parser = fit_parser(about or "")
    once = parser.parse_args(["t.csv", "--y", "loss", "--x", "params", "tokens"])
    twice = parser.parse_args(["t.csv", "--y", "loss", "--x", "params", "--x", "tokens"])
    assert once.x == twice.x == ["params", "tokens"]
    assert (once.law, once.confidence, once.flops_per_unit) == ("auto", 0.9, 6.0)


def test_an_option_that_does_not_exist_ends_with_the_usage(capsys):
    with pytest.raises(SystemExit) as ended:
        fit_parser(about or "").parse_args(["t.csv", "--y", "loss", "--laws", "auto"])
    assert ended.value.code == 2
    assert "usage: python -m analysis.fit" in capsys.readouterr().err
