"""Figures: files that are complete and reproducible, and marks at the right positions.

Covers `loss`, `recall`, `style` and `save`.
"""

import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import PathCollection
from matplotlib.colors import to_hex

from analysis.figures.loss import loss_versus_compute, lower_frontier
from analysis.figures.recall import recall_versus_compute
from analysis.figures.save import save
from analysis.figures.style import COLOURS
from analysis.fitting.trend import fit_sources
from analysis.reference.tables import table6

SOURCES = ("CORUM", "Reactome")


@pytest.fixture(scope="module")
def study():
    """Curves, points and baselines of six runs: two sizes x three data sets, with a known line in each source."""
    rng = np.random.default_rng(0)
    curves, points = [], []
    for size, cost in (("S", 1e6), ("L", 2e7)):
        for rank, (dataset, crops) in enumerate((("third", 1e3), ("half", 1e4), ("whole", 1e5))):
            info = {"cell": f"{size}-{dataset}", "model": f"ViT-{size}/8+", "size": size, "patch": 8}
            info |= {"dataset": dataset, "seed": 0, "kind": "mae_vit"}
            for seen in np.geomspace(10, crops, 5):
                loss = (cost * seen) ** -0.1 + 0.01 * rng.random()
                curves.append(info | {"crops": seen, "compute": cost * seen, "loss": loss})
            for source in SOURCES:
                recall = 0.05 + 0.02 * np.log10(cost * crops)
                numbers = {"recall": recall, "recall_low": recall - 0.02, "recall_high": recall + 0.03, "chance": 0.1}
                numbers |= {"pairs": 99, "genes": 50, "compute": cost * crops, "dataset_rank": rank, "trained": True}
                points.append(info | {"source": source} | numbers)
    bare = {"trained": False, "compute": np.nan, "recall": 0.15}
    baselines = [point | bare | {"cell": f"untrained-{point['size']}"} for point in points]
    for recall, kind in ((0.12, "pixel_statistics"), (0.17, "imagenet"), (0.19, "profiles")):
        model = {"model": f"{kind}_of_mine", "size": "", "kind": kind, "recall": recall}
        baselines += [point | bare | model for point in points[:2]]
    return pd.DataFrame(curves), pd.DataFrame(points), pd.DataFrame(baselines)


def recall_figure(study, **options):
    _, points, baselines = study
    return recall_versus_compute(points, fit_sources(points, "mae_train"), baselines, "mae_train", **options)


def marker_positions(axes):
    return [tuple(marks.get_offsets()[0]) for marks in axes.collections if isinstance(marks, PathCollection)]


@pytest.mark.slow
def test_drawing_twice_gives_the_same_bytes(study, tmp_path):
    for folder in ("first", "second"):
        save(recall_figure(study), tmp_path / folder / "recall")
    for suffix in ("png", "svg"):
        first, second = ((tmp_path / folder / f"recall.{suffix}").read_bytes() for folder in ("first", "second"))
        assert first == second
        assert len(first) > 10_000
    assert b"<dc:date>" not in (tmp_path / "first" / "recall.svg").read_bytes()


@pytest.mark.slow
def test_a_file_is_written_atomically(study, tmp_path, monkeypatch):
    figure = loss_versus_compute(*study[:2], "mae_train")
    written = save(figure, tmp_path / "loss.v1")  # a dot in the name is no suffix
    assert sorted(tmp_path.iterdir()) == [tmp_path / "loss.v1.png", tmp_path / "loss.v1.svg"] == sorted(written)
    before = written[0].read_bytes()

    def torn(path, **_):
        path.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(figure, "savefig", torn)
    with pytest.raises(OSError, match="disk full"):
        save(figure, tmp_path / "loss.v1")
    assert written[0].read_bytes() == before
    assert sorted(tmp_path.iterdir()) == sorted(written)  # no half-written file is left


def test_drawing_does_not_change_the_notebook_s_matplotlib(study):
    import matplotlib as mpl

    before = dict(mpl.rcParams)
    recall_figure(study)
    assert dict(mpl.rcParams) == before


def test_the_frontier_is_the_best_loss_at_each_compute():
    curves = pd.DataFrame({"compute": [1, 2, 2, 3, 4, 5], "loss": [9.0, 7.0, 6.0, 6.5, 6.0, 5.0]})
    frontier = lower_frontier(curves.sample(frac=1, random_state=0))
    assert frontier[["compute", "loss"]].to_numpy().tolist() == [[1, 9], [2, 6], [5, 5]]


def test_every_run_ends_in_a_mark_at_its_last_loss(study):
    curves, points, _ = study
    (axes,) = loss_versus_compute(curves, points, "mae_train").axes
    last = curves.sort_values("compute").groupby("cell").last()
    assert sorted(marker_positions(axes)) == sorted(zip(last["compute"], last["loss"], strict=True))
    assert axes.get_xscale() == "log"
    assert axes.get_xlabel() == "Training compute (FLOPs, mae_train convention)"


def test_one_panel_per_source_with_its_points_fit_and_baselines(study):
    _, points, _ = study
    figure = recall_figure(study)
    assert [axes.get_title(loc="left") for axes in figure.axes] == list(SOURCES)
    axes = figure.axes[0]
    expected = points[points["source"] == "CORUM"]
    drawn, known = sorted(marker_positions(axes)), sorted(zip(expected["compute"], expected["recall"], strict=True))
    np.testing.assert_allclose(drawn, known)
    assert "slope +0.020" in axes.texts[0].get_text()
    horizontal = {line.get_ydata()[0] for line in axes.lines if len(set(line.get_ydata())) == 1}
    assert horizontal == {0.10, 0.12, 0.15, 0.17, 0.19}  # chance, untrained marks, and the baselines that are lines
    labels = [text.get_text() for text in figure.legends[0].texts]
    assert {"pixel statistics of mine", "imagenet of mine", "profiles of mine"} <= set(labels)


def test_runs_that_were_not_annealed_are_open_and_in_the_legend(study):
    curves, points, baselines = study
    ended = points.assign(annealed=pd.array([cell != "S-half" for cell in points["cell"]], dtype="boolean"))
    ended.loc[ended["cell"] == "L-half", "annealed"] = None
    fits = fit_sources(ended, "mae_train")
    assert {(fit.runs, fit.left_out, fit.unknown) for fit in fits} == {(5, 1, 1)}
    for figure in (
        loss_versus_compute(curves, ended, "mae_train"),
        recall_versus_compute(ended, fits, baselines, "mae_train"),
    ):
        marks = [mark for mark in figure.axes[0].collections if isinstance(mark, PathCollection)]
        faces = [to_hex(mark.get_facecolor()[0]).upper() for mark in marks]
        assert faces.count("#FFFFFF") == 1
        (edge,) = (mark.get_edgecolor()[0] for mark, face in zip(marks, faces, strict=True) if face == "#FFFFFF")
        assert to_hex(edge).upper() == COLOURS["S"]
        assert "not decayed" in [text.get_text() for text in figure.legends[0].texts]
    annealed = recall_versus_compute(points, fit_sources(points, "mae_train"), baselines, "mae_train")
    assert "not decayed" not in [text.get_text() for text in annealed.legends[0].texts]


NAMES = ("$x^2$", "$\\frac$", "a$b", "_hidden", "100% & <b>", "a\\$b$", "$$")


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_names_are_shown_as_they_are(study, tmp_path, name):
    """Pairs of dollar signs were formulas, which stopped the figure where TeX did not know them."""
    curves, points, baselines = study
    named = [
        table.assign(size=table["size"].replace({"S": name}), source=name) if "source" in table else
        table.assign(size=table["size"].replace({"S": name}))
        for table in (curves, points, baselines)
    ]  # fmt: skip
    named[2] = named[2].assign(model=[name if kind == "profiles" else kind for kind in named[2]["kind"]])
    curves, points, baselines = named
    recall = recall_versus_compute(points, [], baselines, "mae_train")
    for figure in (loss_versus_compute(curves, points, "mae_train"), recall):
        texts = figure.legends[0].texts
        (label,) = [text for text in texts if text.get_text() == name][:1]
        assert not label.get_parse_math()
        save(figure, tmp_path / "figure")
    assert recall.axes[0].get_title(loc="left") == name
    assert name.replace("_", " ") in [text.get_text() for text in recall.legends[0].texts]


def test_colours_mean_the_same_size_in_every_figure(study):
    curves, points, _ = study
    for figure in (loss_versus_compute(curves, points, "touvron"), recall_figure(study)):
        legend = dict(
            zip([t.get_text() for t in figure.legends[0].texts], figure.legends[0].legend_handles, strict=True)
        )
        assert {size: to_hex(legend[size].get_color()).upper() for size in "SL"} == {s: COLOURS[s] for s in "SL"}
        assert "8+" in legend


def test_table_6_is_drawn_on_the_panels_of_its_sources(study):
    alone, overlaid = recall_figure(study), recall_figure(study, table6=table6())
    assert [axes.get_title(loc="left") for axes in overlaid.axes] == [*SOURCES, "hu.MAP", "StringDB"]
    added = set(marker_positions(overlaid.axes[0])) - set(marker_positions(alone.axes[0]))
    assert sorted(y for _, y in added) == [0.505, 0.518, 0.540, 0.560, 0.565, 0.601, 0.605, 0.607, 0.622]


def test_chance_far_from_the_data_is_noted_and_not_drawn(study):
    _, points, baselines = study
    figure = recall_versus_compute(points.iloc[:0], [], baselines.iloc[:0], "touvron", table6())
    corum, reactome = figure.axes[0], figure.axes[2]  # recall 0.505 to 0.622, and 0.224 to 0.267
    assert corum.get_title(loc="right") == reactome.get_title(loc="right") == "chance 0.10 is below"
    assert "chance" not in [text.get_text() for text in figure.legends[0].texts]


def test_a_fit_in_another_convention_is_rejected(study):
    _, points, baselines = study
    with pytest.raises(ValueError, match="counts in touvron, but a fit was made in mae_train"):
        recall_versus_compute(points, fit_sources(points, "mae_train"), baselines, "touvron")


def test_nothing_to_draw_is_an_error(study):
    _, points, baselines = study
    with pytest.raises(ValueError, match="no points to draw"):
        recall_versus_compute(points.iloc[:0], [], baselines, "touvron")
