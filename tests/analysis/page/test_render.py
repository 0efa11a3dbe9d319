"""The report's page: one complete file, escaped values, and a test in a real browser.

Covers `render`, `sections`, `comparisons`, `lifetime`, `html` and `study`.
"""

import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from analysis.page.render import page
from analysis.page.study import (
    Allocation,
    BestRates,
    CellRow,
    LifePanel,
    MultiplierRow,
    Multipliers,
    NextRun,
    Price,
    SourceFit,
    Study,
)

CONVENTIONS = [{"name": "touvron", "unit": "FLOPs", "meaning": "the paper's"},
               {"name": "mae_train", "unit": "FLOPs", "meaning": "training"}]  # fmt: skip
SOURCES = ("CORUM", "StringDB")


def study(**changes):
    """Six trained cells, one of two missing, a baseline; compute under mae_train is ten times that of touvron."""
    points, curves, cells = [], [], []
    for number, (size, patch) in enumerate([("S", 16), ("S", 8), ("B", 16), ("B", 8), ("L", 16), ("L", 8)]):
        cell = f"vit_{size.lower()}{patch}-rxrx3-s0"
        compute = {"touvron": 1e15 * 10**number, "mae_train": 1e16 * 10**number}
        same = {"cell": cell, "model": f"vit_{size.lower()}{patch}", "size": size, "patch": patch}
        for source in SOURCES:
            recall = 0.2 + 0.03 * number
            points.append(same | {"dataset": "rxrx3", "dataset_rank": 1, "seed": 0, "source": source, "trained": True,
                                  "recall": recall, "recall_low": recall - 0.02, "recall_high": recall + 0.02,
                                  "compute": compute, "crops": 1e7})  # fmt: skip
        curve = {name: [value / 4, value] for name, value in compute.items()}
        curves.append(
            {"cell": cell, "size": size, "patch": patch, "loss": [1.0, 0.9 - 0.05 * number], "compute": curve}
        )
        recalls = dict.fromkeys(SOURCES, 0.2 + 0.03 * number)
        cells.append(CellRow(cell, same["model"], "rxrx3", 0, "done", 0.9 - 0.05 * number, recalls, 10.0**number, 1.0,
                             "../cells/x/train.jsonl"))  # fmt: skip
    cells.append(CellRow("vit_g8-rxrx3-s0", "vit_g8", "rxrx3", 0, "missing", None, {}, 1e6, None, None))
    line = {"x": [1e15, 1e20], "y": [0.2, 0.35], "low": [0.18, 0.3], "high": [0.22, 0.4]}
    checks = [{"check": "two factors", "verdict": "warn", "detail": "carried by cost <per crop> alone"}]
    fits = {one["name"]: {s: SourceFit(f"recall rises under {one['name']}", line, checks) for s in SOURCES}
            for one in CONVENTIONS}  # fmt: skip
    frontier = {one["name"]: {"x": [1e15, 1e20], "y": [1.0, 0.65]} for one in CONVENTIONS}
    best = {"x": [1e15, 1e20], "y": [1e8, 1e10], "low": [5e7, 5e9], "high": [2e8, 2e10]}
    place = {"compute": 1e20, "cost": 1e10, "cost_low": 5e9, "cost_high": 2e10, "crops": 1e10, "predicted": 0.41}
    allocations = {
        one["name"]: [Allocation("recall, mean", f"power 0.45 under {one['name']}", best, [place], [cells[0].cell]),
                      Allocation("loss", "6 runs do not tell", {}, (), [])]
        for one in CONVENTIONS
    }  # fmt: skip
    owned = {"wells": 2.2e6, "size": 4e9, "size_low": 3e9, "size_high": 5e9, "crops": 1e9, "train": 700.0,
             "embed": 300.0, "total": 1000.0}  # fmt: skip
    wells = {"x": [1e5, 1e6, 1e7], "y": [6e9, 5e9, 3e9], "low": [5e9, 4e9, 2e9], "high": [7e9, 6e9, 4e9]}
    lives = [LifePanel("recall, mean", "0.6; vit_l8", "GPU hours", "touvron", wells, [("vit_l8", 8e9)], [owned]),
             LifePanel("loss", "not enough to tell")]  # fmt: skip
    given = {
        "title": "A <study>", "question": "Does recall grow?", "convention": "touvron", "conventions": CONVENTIONS,
        "sources": SOURCES, "points": points, "curves": curves, "frontier": frontier, "fits": fits, "cells": cells,
        "unfinished": "1 of 7 cells are not finished", "provenance": {"recipe": "x", "ledger": "18 rows"},
        "allocations": allocations, "lives": lives, "price": Price("A100-80GB", 2.0),
        "unsettled": ["exponents from 0.1 to 0.4"],
        "next_runs": [NextRun("vit_g8-rxrx3-s0", 1e6, "CORUM: 0.02 → 0.01")],
    }  # fmt: skip
    return Study(**(given | changes))


def outside_scripts(text):
    return re.sub(r"<script.*?</script>", "", text, flags=re.S)


def test_the_page_loads_nothing_from_the_network():
    text = outside_scripts(page(study()))
    assert not re.search(r'(src|href)="(?!data:|#|\.\./cells)', text)
    assert "@import" not in text
    assert "url(" not in text


def test_values_are_escaped():
    evil = '</script><script>alert("x")</script>'
    text = page(study(title=evil, points=[{**study().points[0], "model": evil}]))
    assert evil not in text
    assert "&lt;/script&gt;" in text


EVIL = ("</script><!--<script>", '"><img src=x onerror=alert(1)>', "a\u2028b\u2029", "'&amp;", "$x$", "constructor")


@pytest.mark.parametrize("evil", EVIL)
def test_no_name_leaves_its_place_in_elements_attributes_or_the_script_s_data(evil):
    """Every text of a study is the same hostile one; the elements of the page are those of a study of plain texts."""

    def hostile(text):
        cell = CellRow(text, text, text, 0, text, 0.5, {text: 0.5}, 1.0, 1.0, text, text)
        line = study().fits["touvron"]["CORUM"].line
        fit = SourceFit(text, line, [{"check": text, "verdict": "warn", "detail": text}])
        allocation = Allocation(text, text, line, (), [text])
        point = {**study().points[0], "source": text, "model": text, "dataset": text, "cell": text, "size": text}
        return page(study(
            title=text, question=text, sources=(text,), points=[point], cells=[cell], unfinished=text,
            fits={"touvron": {text: fit}}, allocations={"touvron": [allocation]}, left_out=[text], stopped=text,
            next_runs=[NextRun(text, 1.0, text)], unsettled=[text], provenance={text: text},
            price=Price(text, 1.0), curves=[],
            lives=[LifePanel(text, text, text, text, line, [(text, 1e9)], study().lives[0].places)],
        ))  # fmt: skip

    class Elements(HTMLParser):
        def __init__(self):
            super().__init__()
            self.seen, self.data, self.inside = [], "", False

        def handle_starttag(self, tag, attributes):
            self.seen.append((tag, tuple(name for name, _ in attributes)))
            self.inside = ("id", "study") in attributes

        def handle_data(self, data):
            self.data += data if self.inside else ""

        def handle_endtag(self, tag):
            self.inside = False

    pages = [Elements(), Elements()]
    for parser, text in zip(pages, (evil, "plain"), strict=True):
        parser.feed(hostile(text))
    assert pages[0].seen == pages[1].seen
    data = json.loads(pages[0].data)
    assert data["sources"] == [evil]
    assert data["points"][0]["model"] == evil
    assert not set(pages[0].data) & set("<\u2028\u2029")


def test_what_was_left_out_and_runs_that_stopped_are_shown():
    cells = [*study().cells[:1], CellRow("vit_l8", "vit_l8", "rxrx3", 0, "done", 0.5, {}, 1.0, 1.0, None, "no")]
    files = ["ledger/a/train.json: not a ledger row <", "ledger/b: no cell"]
    text = outside_scripts(page(study(cells=cells, left_out=files, stopped="1 evaluated runs stopped")))
    assert "<li>ledger/a/train.json: not a ledger row &lt;</li><li>ledger/b: no cell</li>" in text
    assert '<p class="soft">1 evaluated runs stopped</p>' in text
    heads = re.findall(r'<th scope="col"><button type="button">([^<]+)', text)
    row = re.findall(r"<td[^>]*>(.*?)</td>", text[text.index("<td>vit_l8</td>") :])[: len(heads)]
    assert dict(zip(heads, row, strict=True))["annealed"] == "no"
    assert "Left out of this page" not in page(study())


def test_answers_tables_and_checks_are_shown_without_a_script():
    text = outside_scripts(page(study()))
    for words in ("recall rises under touvron", "1 of 7 cells are not finished", "vit_l8-rxrx3-s0", "18 rows",
                  "carried by cost &lt;per crop&gt; alone", "0.02 → 0.01", "power 0.45 under touvron",
                  "6 runs do not tell", "A100-80GB"):  # fmt: skip
        assert words in text


def test_spent_hours_and_cost_are_shown_next_to_the_plan_of_the_same_cells():
    text = outside_scripts(page(study()))
    last = re.findall(r"<tr><td>all</td>(.*?)</tr>", text)[0]
    # seven cells: six started at 1, 10, ... 100,000 GPU hours and one at a million; an hour spent on each, at 2 an hour
    assert re.findall(r">([^<]+)</td>", last) == ["7", "1,111,111", "6", "111,111", "6", "2,222,222", "12"]
    free = outside_scripts(page(study(price=None)))
    assert "no GPU hours are planned" in free
    assert "spent cost" not in free


def test_what_the_hours_were_spent_on_is_shown_where_it_is_known():
    text = outside_scripts(page(replace(study(), goodput="8 hours: 90% useful < all.")))
    assert "<p>8 hours: 90% useful &lt; all.</p>" in text
    assert "90% useful" not in page(study())
    cells = [replace(study().cells[0], goodput=0.934)]
    text = outside_scripts(page(study(cells=cells)))
    heads = re.findall(r'<th scope="col"><button type="button">([^<]+)', text)
    row = re.findall(r"<td[^>]*>(.*?)</td>", text[text.rindex(f"<td>{cells[0].cell}</td>") :])[: len(heads)]
    assert dict(zip(heads, row, strict=True))["goodput"] == "93%"


def compared():
    """An axis with a multiplier, one that is open above, and one that is missing."""
    rows = [MultiplierRow("adamw", "loss", 2.0, 1.5, 2.5, "lion needs 2 times", ("the two fits disagree",)),
            MultiplierRow("adamw", "recall", None, 0.8, None, "more seeds would tell"),
            MultiplierRow("muon", "loss", None, None, None, "not enough to tell: 2 computes")]  # fmt: skip
    return Multipliers("variant <x>", "lion", "the recipe's own", rows, ("a note",), b"image")


def test_multipliers_and_best_rates_are_shown_and_only_with_axes():
    text = outside_scripts(page(study(multipliers=[compared()], best_rates=BestRates(["S: best rate <1>"], b"plot"))))
    assert "<h3>variant &lt;x&gt;</h3><p>Baseline: lion, the recipe&#x27;s own.</p>" in text
    rows = re.findall(r"<tr><td>(adamw|muon)</td>(.*?)</tr>", text)
    ends = [re.findall(r'<td class="number"[^>]*>([^<]*)</td>', row) for _, row in rows]
    assert ends == [["2", "1.5 – 2.5"], ["", "0.8 – ∞"], ["", ""]]
    assert "the two fits disagree" in rows[0][1]
    assert "<li>S: best rate &lt;1&gt;</li>" in text
    assert text.count("data:image/png;base64,") == 2
    assert 'id="multipliers"' not in page(study())
    assert 'id="rates"' not in page(study())


def test_the_reason_for_no_proposal_is_shown():
    assert "needs 3 runs" in page(study(next_runs=[], no_next="needs 3 runs"))


def test_a_study_without_any_finished_cell_has_a_page():
    empty = study(
        points=[],
        curves=[],
        fits={},
        allocations={},
        sources=(),
        frontier={one["name"]: {"x": [], "y": []} for one in CONVENTIONS},
    )
    assert "Too few trained cells for a law" in page(empty)


# --- in a browser ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser():
    """Headless Chromium from the system, driven by Playwright."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (extra `test`)")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium here: install the package chromium")
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        yield started
        started.close()


@pytest.fixture
def opened(browser, tmp_path):
    """The page, offline, and all messages of its console."""
    path = tmp_path / "report.html"
    shown = study(multipliers=[replace(compared(), image=None)], best_rates=BestRates(["S: best rate 0.1"]))
    path.write_text(page(shown), encoding="utf-8")
    context = browser.new_context(offline=True)
    tab, said = context.new_page(), []
    tab.on("console", lambda message: said.append(message.text) if message.type in ("error", "warning") else None)
    tab.on("pageerror", lambda error: said.append(str(error)))
    tab.goto(path.as_uri())
    tab.wait_for_selector(".js-plotly-plot .trace, .js-plotly-plot .scatterlayer")
    yield tab, said
    context.close()


def xs(tab, source="CORUM"):
    return tab.evaluate(f"document.querySelector('[data-plot={source}]').data.at(-1).x")


def column(tab, index):
    cells = tab.locator(f"#cells tbody tr:not([hidden]) td:nth-child({index})")
    return cells.all_text_contents()


@pytest.mark.slow
def test_the_convention_switches_by_keyboard_and_the_points_move(opened):
    tab, said = opened
    assert xs(tab) == pytest.approx(list(1e15 * 10.0 ** np.arange(6)))
    tab.locator("input[value=touvron]").focus()
    tab.keyboard.press("ArrowRight")
    assert xs(tab) == pytest.approx(list(1e16 * 10.0 ** np.arange(6)))
    assert tab.get_by_text("recall rises under mae_train").first.is_visible()
    assert tab.get_by_text("power 0.45 under mae_train").is_visible()
    best = tab.evaluate("document.querySelector('[data-allocation]').data.at(-1)")
    assert (best["x"], best["y"]) == ([1e16], [1e9])
    assert not tab.get_by_text("recall rises under touvron").first.is_visible()
    assert said == []


@pytest.mark.slow
def test_the_best_size_over_a_life_is_drawn_with_the_study_s_models(opened):
    tab, said = opened
    drawn = tab.evaluate("document.querySelector('[data-life]').data.at(-1)")
    assert (drawn["x"], drawn["y"]) == ([1e5, 1e6, 1e7], [6e9, 5e9, 3e9])
    layout = tab.evaluate("document.querySelector('[data-life]').layout")
    assert layout["annotations"][0]["text"] == "vit_l8"
    assert layout["shapes"][0]["y0"] == 8e9
    assert said == []


def test_a_life_s_table_has_its_costs_and_money():
    text = page(study())
    assert "<b>loss</b>: not enough to tell" in text
    row = text[text.index('data-value="2200000.0"') :]
    row = row[: row.index("</tr>")]
    assert re.findall(r'data-value="([^"]*)"', row)[1:] == [
        "4000000000.0", "1000000000.0", "700.0", "300.0", "1000.0", "2000.0",
    ]  # fmt: skip
    assert "exponents from 0.1 to 0.4." in text


@pytest.mark.slow
def test_cells_sort_by_number_both_ways_with_missing_values_last(opened):
    tab, said = opened
    button = tab.locator("#cells th button", has_text="loss")
    button.focus()
    tab.keyboard.press("Enter")
    losses = column(tab, 6)
    assert losses[-1] == ""
    assert [float(one) for one in losses[:-1]] == sorted(float(one) for one in losses[:-1])
    assert tab.locator("#cells th", has_text="loss").get_attribute("aria-sort") == "ascending"
    button.click()
    assert [float(one) for one in column(tab, 6)[:-1]] == sorted((float(one) for one in losses[:-1]), reverse=True)
    assert said == []


@pytest.mark.slow
def test_cells_are_filtered_by_words_and_state(opened):
    tab, said = opened
    tab.fill("#words", "VIT_B rxrx3")
    assert column(tab, 2) == ["vit_b16", "vit_b8"]
    assert tab.text_content("#shown") == "2 of 7 cells"
    tab.fill("#words", "")
    tab.select_option("#state", "missing")
    assert column(tab, 1) == ["vit_g8-rxrx3-s0"]
    assert said == []


@pytest.mark.slow
def test_nothing_is_wider_than_a_phone_and_the_page_prints(opened):
    tab, said = opened
    tab.set_viewport_size({"width": 375, "height": 700})
    tab.wait_for_timeout(300)
    assert tab.evaluate("document.documentElement.scrollWidth") <= 375
    assert tab.pdf(format="A4").startswith(b"%PDF")
    assert said == []
