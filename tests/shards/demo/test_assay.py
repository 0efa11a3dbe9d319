"""Covers `assay`, `render` and `truth`: the files are those of RxRx3, and the same for any number of processes."""

import csv
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from shards.assay import main
from shards.demo.assay import AssayError, AssayOptions, render_assay
from shards.demo.truth import draw_truth, relationships

SMALL = AssayOptions(
    seed=3, experiments=2, complexes=4, members=3, singles=2, complexes_per_pathway=2, guides=2, controls=4, side=64
)
SOURCES = ("complexes", "clusters", "pathways", "network")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def assay(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("assay") / "small"
    assert render_assay(SMALL, output, workers=1)
    return output


def test_the_bytes_do_not_depend_on_the_number_of_processes(assay, tmp_path):
    assert render_assay(SMALL, tmp_path / "again", workers=2)
    assert contents(tmp_path / "again") == contents(assay)


def test_another_seed_gives_other_images(assay, tmp_path):
    render_assay(replace(SMALL, seed=4), tmp_path / "other", workers=1)
    image = "gene-001/Plate1/B02_s1_w1.png"
    assert contents(tmp_path / "other")[image] != contents(assay)[image]


def test_every_row_of_the_metadata_has_six_8_bit_images_and_no_image_is_left_over(assay):
    rows = table(assay / "metadata.csv")
    named = {
        assay / row["experiment_name"] / f"Plate{row['plate']}" / f"{row['address']}_s1_w{channel}.png"
        for row in rows
        for channel in range(1, 7)
    }
    assert named == set(assay.rglob("*.png"))
    assert len(rows) == 2 * (4 * 3 + 2 + 4)
    for path in sorted(named)[:12]:
        pixels = np.asarray(Image.open(path))
        assert (pixels.dtype, pixels.shape) == (np.uint8, (64, 64))


def test_metadata_is_rxrx3s(assay):
    rows = table(assay / "metadata.csv")
    assert list(rows[0]) == [
        "well_id", "experiment_name", "plate", "address", "gene", "treatment", "SMILES", "concentration",
        "perturbation_type", "cell_type",
    ]  # fmt: skip
    assert len({row["well_id"] for row in rows}) == len(rows)
    for row in rows:
        assert row["well_id"] == f"{row['experiment_name']}_{row['plate']}_{row['address']}"
        if row["treatment"] != "EMPTY_control":
            assert row["treatment"] in {f"{row['gene']}_guide_{guide}" for guide in (1, 2)}


def test_each_plate_holds_its_controls_and_every_gene_once(assay):
    rows = table(assay / "metadata.csv")
    for experiment in ("gene-001", "gene-002"):
        plate = [row for row in rows if row["experiment_name"] == experiment]
        genes = [row["gene"] for row in plate if row["treatment"] != "EMPTY_control"]
        assert len(plate) - len(genes) == SMALL.controls
        assert len(genes) == len(set(genes)) == SMALL.genes


def test_the_lists_on_disk_name_genes_of_the_assay_and_complexes_are_the_truth(assay):
    genes = {row["gene"] for row in table(assay / "metadata.csv") if row["treatment"] != "EMPTY_control"}
    listed = {
        source: {(row["entity1"], row["entity2"]) for row in table(assay / "relationships" / f"{source}.csv")}
        for source in SOURCES
    }
    for pairs in listed.values():
        assert pairs
        assert {gene for pair in pairs for gene in pair} <= genes
    truth = draw_truth(SMALL.seed, SMALL.complexes, SMALL.members, SMALL.singles, SMALL.complexes_per_pathway)
    complex_of = dict(zip(truth.genes, truth.complexes.tolist(), strict=True))
    within = {(a, b) for a, b in combinations(sorted(genes), 2) if complex_of[a] == complex_of[b] != -1}
    assert listed["complexes"] == within
    assert len(within) == 4 * 3  # 4 complexes of 3 members: 3 pairs each


def test_pathways_join_complexes_and_the_other_lists_are_noisy():
    truth = draw_truth(0, complexes=12, members=4, singles=5, complexes_per_pathway=3)
    lists = {source: set(pairs) for source, pairs in relationships(truth, 0).items()}
    complex_of = dict(zip(truth.genes, truth.complexes.tolist(), strict=True))
    pathway_of = dict(zip(truth.genes, truth.pathways.tolist(), strict=True))
    assert len(lists["pathways"]) == 4 * 3 * 4 * 4  # 4 pathways, 3 pairs of complexes each, 4 x 4 genes
    assert all(pathway_of[a] == pathway_of[b] and complex_of[a] != complex_of[b] for a, b in lists["pathways"])
    for source in ("clusters", "network"):
        wrong = [pair for pair in lists[source] if pathway_of[pair[0]] != pathway_of[pair[1]]]
        assert 0 < len(wrong) < len(lists[source]) / 2


def test_members_of_a_complex_are_more_alike_than_other_genes():
    truth = draw_truth(1, complexes=40, members=4, singles=0, complexes_per_pathway=2)
    similar = np.corrcoef(truth.phenotypes)
    same = truth.complexes[:, None] == truth.complexes
    off_diagonal = ~np.eye(len(similar), dtype=bool)
    assert similar[same & off_diagonal].mean() > 0.5
    assert abs(similar[~same].mean()) < 0.1


def test_experiments_differ_more_than_wells_of_one_experiment():
    options = replace(SMALL, experiments=4, controls=8)
    from shards.demo.assay import plan_wells, render_well

    controls = [well for well in plan_wells(options) if well.gene is None]
    mean = np.array([render_well(options, well).mean((1, 2)) for well in controls])
    of_experiment = np.array([well.experiment for well in controls])
    batches = [mean[of_experiment == experiment] for experiment in range(4)]
    between = np.var([batch.mean(0) for batch in batches], axis=0)
    sampling = np.mean([batch.var(0, ddof=1) / len(batch) for batch in batches], axis=0)
    assert np.mean(between / sampling) > 2  # 3/4 where experiments share one light, stain and focus


def test_a_complete_assay_is_left_untouched_and_another_is_refused(assay):
    before = {path: path.stat().st_mtime_ns for path in assay.rglob("*")}
    assert not render_assay(SMALL, assay, workers=1)
    assert before == {path: path.stat().st_mtime_ns for path in assay.rglob("*")}
    with pytest.raises(AssayError, match="another assay"):
        render_assay(replace(SMALL, seed=9), assay, workers=1)


def test_a_failed_rendering_leaves_nothing(tmp_path, monkeypatch):
    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("shards.demo.assay._write_metadata", fail)
    with pytest.raises(OSError, match="disk full"):
        render_assay(SMALL, tmp_path / "assay", workers=1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"experiments": 0},
        {"members": 0},
        {"guides": 0},
        {"side": 0},
        {"seed": -1},
        {"photons": 0.0},
        {"controls": 1400},
    ],
)
def test_invalid_options_are_refused_by_name(wrong):
    with pytest.raises(AssayError, match="wells" if "controls" in wrong else next(iter(wrong))):
        AssayOptions(**wrong)


def test_the_command_line_prints_its_errors_without_a_traceback(tmp_path, capsys):
    assert main(["--output", str(tmp_path / "a"), "--experiments", "0"]) == 2
    assert "experiments is 0" in capsys.readouterr().err
