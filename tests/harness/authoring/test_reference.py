"""Covers `reference`: docs/recipe.md is what the schema says, and says something of every field."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from harness import sweep
from harness.authoring.reference import page
from harness.recipe.load import json_schema

PAGE = Path(__file__).parents[3] / "docs" / "recipe.md"


def test_the_page_in_docs_is_that_of_the_schema(capsys: pytest.CaptureFixture[str]) -> None:
    assert sweep.main(["--fields"]) == 0
    text = capsys.readouterr().out
    assert text == PAGE.read_text(), "run python -m harness.sweep --fields > docs/recipe.md"


def test_every_field_of_every_section_is_on_it_with_a_meaning() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \| (.*?) \| (.+) \|$", page(), re.MULTILINE)
    schema = json_schema()
    sections = [schema, *(section for section in schema["$defs"].values() if "properties" in section)]
    assert {name for name, *_ in rows} == {name for section in sections for name in section["properties"]}
    assert len(rows) >= sum(len(section["properties"]) for section in sections)
    assert not [row for row in rows if not row[1].strip() or not row[3].strip()]


def test_values_are_written_as_in_yaml() -> None:
    assert "`True`" not in page()
    assert "`False`" not in page()
    assert not re.search(r"(least|most|above|below) [\d,]+\.0\b", page())


@pytest.mark.parametrize(
    "row",
    [
        "| `warmup` | number at least 0, below 1 | `0.1` | share of the run in which the rate rises |",
        "| `batch` | whole number above 0, at most 16,777,216, or by name | `4096` | global batch in crops; "
        "per dataset |",
        '| `executor` | `slurm`, `local` | `"slurm"` | slurm: as jobs of a cluster; '
        "local: as processes of this machine |",
        "| `kind` | `mu_net` |  | says which section this is |",
        "| `tails` | 2 of: number at least 0, below 1 | `[0.05, 0.95]` | quantiles of the cosines of all pairs; "
        "a known pair is recalled outside of them |",
    ],
    ids=["bounds", "by name", "choices", "kind", "pair"],
)  # fmt: skip
def test_rows_by_hand(row: str) -> None:
    assert row in page().splitlines()
