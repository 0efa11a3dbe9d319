"""Render the demo assay: plates with known gene complexes."""

from __future__ import annotations

import csv
import json
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import cache
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from shards.demo.render import draw_batch, draw_stamps, draw_well
from shards.demo.truth import TRAITS, Truth, draw_truth, relationships

CONTROL = "EMPTY_control"
OPTIONS = "assay.json"
HEADER = (
    "well_id", "experiment_name", "plate", "address", "gene", "treatment", "SMILES", "concentration",
    "perturbation_type", "cell_type",
)  # fmt: skip
COLUMNS = 46  # of a 1,536-well plate, its outer ring left out


class AssayError(ValueError):
    """Invalid options, or an output folder with other content."""


@dataclass(frozen=True)
class AssayOptions:
    """Size and difficulty of the assay. `effect` scales the phenotypes, `photons` the light."""

    seed: int = 0
    experiments: int = 5
    complexes: int = 60
    members: int = 4
    singles: int = 20
    complexes_per_pathway: int = 3
    guides: int = 3
    controls: int = 100
    side: int = 144
    effect: float = 1.0
    photons: float = 3.0
    read_noise: float = 0.18

    def __post_init__(self) -> None:
        """Check that the assay can be rendered."""
        for name in ("experiments", "complexes", "members", "complexes_per_pathway", "guides", "side"):
            if getattr(self, name) < 1:
                raise AssayError(f"{name} is {getattr(self, name)}: it must be at least 1")
        for name in ("seed", "singles", "controls", "effect", "read_noise"):
            if getattr(self, name) < 0:
                raise AssayError(f"{name} is {getattr(self, name)}: it must not be negative")
        if self.photons <= 0:
            raise AssayError(f"photons is {self.photons}: it must be positive")
        if self.wells > COLUMNS * 30:
            raise AssayError(f"{self.wells} wells in an experiment: its plate has {COLUMNS * 30}")

    @property
    def genes(self) -> int:
        """Genes of the assay."""
        return self.complexes * self.members + self.singles

    @property
    def wells(self) -> int:
        """Wells of one experiment."""
        return self.genes + self.controls


@dataclass(frozen=True)
class Well:
    """One well: its position, its gene (None: a control) and its guide."""

    experiment: int
    position: int
    gene: int | None
    guide: int

    @property
    def address(self) -> str:
        """Row letters and column, as `B02`; the outer ring of the plate stays empty."""
        row, column = divmod(self.position, COLUMNS)
        letters = "".join(chr(ord("A") + i) for i in ([row + 1] if row < 25 else [0, row - 25]))
        return f"{letters}{column + 2:02d}"


def plan_wells(options: AssayOptions) -> list[Well]:
    """Every well, with genes and controls at random positions of each experiment's plate."""
    wells: list[Well] = []
    for experiment in range(options.experiments):
        order = np.random.default_rng([options.seed, 3, experiment]).permutation(options.wells)
        for position, content in enumerate(order.tolist()):
            gene = content if content < options.genes else None
            wells.append(Well(experiment, position, gene, experiment % options.guides))
    return wells


def render_assay(options: AssayOptions, output: Path, workers: int | None = None) -> bool:
    """Render into `output`, and return whether anything was rendered.

    A complete assay of the same options is left untouched. The folder gets its name only when it is complete.

    Raises:
        AssayError: `output` holds something else.
    """
    if output.exists():
        if _stored_options(output) == asdict(options):
            return False
        raise AssayError(f"{output}: holds another assay or something else; remove it or choose another folder")
    partial = output.with_name(f".{output.name}.{os.getpid()}.tmp")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        _render_into(options, partial, workers or os.cpu_count() or 1)
        partial.rename(output)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return True


def _stored_options(output: Path) -> object:
    try:
        return json.loads((output / OPTIONS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _render_into(options: AssayOptions, folder: Path, workers: int) -> None:
    from tqdm import tqdm

    wells = plan_wells(options)
    for experiment in range(options.experiments):
        (folder / experiment_name(experiment) / "Plate1").mkdir(parents=True)
    parts = [wells[start : start + 16] for start in range(0, len(wells), 16)]
    with tqdm(
        total=len(wells), unit=" wells", desc="render assay", mininterval=0.5 if sys.stderr.isatty() else 15
    ) as bar:
        for count in _rendered(options, folder, parts, workers):
            bar.update(count)
    _write_metadata(options, wells, folder / "metadata.csv")
    (folder / "relationships").mkdir()
    for source, pairs in relationships(_truth(options), options.seed).items():
        _write_csv(folder / "relationships" / f"{source}.csv", ("entity1", "entity2"), pairs)
    (folder / OPTIONS).write_text(json.dumps(asdict(options), indent=1) + "\n", encoding="utf-8")


def _rendered(options: AssayOptions, folder: Path, parts: list[list[Well]], workers: int) -> Iterator[int]:
    """Render parts in worker processes, or in this one for a single worker; yield the wells done."""
    if workers == 1:
        yield from (_render_part(options, folder, part) for part in parts)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield from pool.map(_render_part, [options] * len(parts), [folder] * len(parts), parts)


def _render_part(options: AssayOptions, folder: Path, wells: list[Well]) -> int:
    from PIL import Image

    for well in wells:
        plate = folder / experiment_name(well.experiment) / "Plate1"
        for channel, pixels in enumerate(render_well(options, well), start=1):
            Image.fromarray(pixels).save(plate / f"{well.address}_s1_w{channel}.png", compress_level=1)
    return len(wells)


def render_well(options: AssayOptions, well: Well) -> NDArray[np.uint8]:
    """The image of one well, (6, side, side) uint8."""
    batch = draw_batch(np.random.default_rng([options.seed, 4, well.experiment]), options.photons)
    phenotype = options.effect * treatment_phenotype(options, well.gene, well.guide)
    treatment = options.genes if well.gene is None else well.gene
    stamps = draw_stamps(phenotype, np.random.default_rng([options.seed, 5, treatment, well.guide, well.experiment]))
    rng = np.random.default_rng([options.seed, 6, well.experiment, well.position])
    return draw_well(stamps, 0.5 + 0.6 * float(phenotype[-1]), batch, options.side, options.read_noise, rng)


def treatment_phenotype(options: AssayOptions, gene: int | None, guide: int) -> NDArray[np.float64]:
    """Traits (K,) under one guide: the gene's, at the guide's own strength and with its own off-target part."""
    if gene is None:
        return np.zeros(len(TRAITS))
    rng = np.random.default_rng([options.seed, 7, gene, guide])
    own = rng.normal(0, 0.15, len(TRAITS))
    traits: NDArray[np.float64] = rng.uniform(0.8, 1.1) * _truth(options).phenotypes[gene] + own
    return traits


@cache
def _truth(options: AssayOptions) -> Truth:
    return draw_truth(options.seed, options.complexes, options.members, options.singles, options.complexes_per_pathway)


def experiment_name(experiment: int) -> str:
    """`gene-001`, ..."""
    return f"gene-{experiment + 1:03d}"


def _write_metadata(options: AssayOptions, wells: list[Well], path: Path) -> None:
    genes = _truth(options).genes
    rows = []
    for well in wells:
        name = experiment_name(well.experiment)
        gene = CONTROL if well.gene is None else genes[well.gene]
        treatment = CONTROL if well.gene is None else f"{gene}_guide_{well.guide + 1}"
        rows.append((f"{name}_1_{well.address}", name, 1, well.address, gene, treatment, "", "", "CRISPR", "RENDERED"))
    _write_csv(path, HEADER, rows)


def _write_csv(path: Path, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *rows])
