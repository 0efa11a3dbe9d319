"""Dataset sizes: fractions of one shard set are nested by experiment, and none includes validation wells.

Covers `wells`. Classifiers use `labels` and `plate_statistics`, so these are tested with them, in
tests/harness/models/test_classifier.py.
"""

import itertools
from pathlib import Path

import numpy as np

from harness.data.wells import training_wells, validation_wells
from shards.builder.build_set import build
from shards.demo.assay import AssayOptions, render_assay
from shards.reader.shard_set import ShardSet


def test_each_dataset_size_is_a_subset_of_the_next(tmp_path: Path) -> None:
    options = AssayOptions(experiments=7, complexes=1, members=2, singles=1, controls=1, side=16, guides=1)
    render_assay(options, tmp_path / "images", workers=1)
    build("rxrx3", tmp_path / "images", tmp_path / "shards", progress=False)
    shards = ShardSet.open(tmp_path / "shards")
    sizes = [training_wells(shards, fraction) for fraction in (0.1, 1 / 3, 0.5, 0.8, 1.0)]
    assert [len(experiments) for experiments, _ in sizes] == [1, 2, 3, 5, 6]
    for (few, fewer), (many, more) in itertools.pairwise(sizes):
        assert set(few) <= set(many)
        assert set(fewer) <= set(more)
    for experiments, wells in sizes:
        assert set(shards.wells["experiment"].iloc[wells]) == set(experiments)
        assert not np.intersect1d(wells, validation_wells(shards, 100)).size
