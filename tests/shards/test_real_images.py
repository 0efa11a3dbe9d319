"""Real microscope images through layout, builder and reader, pixel for pixel."""

import numpy as np
import pytest
import tifffile

from shards.builder.build_set import build
from shards.errors import LayoutError
from shards.loader.batches import training_batches, well_tiles
from shards.loader.transform import self_standardise
from shards.reader.shard_set import ShardSet


def files(folder, channels: int) -> list[np.ndarray]:
    """The images of a folder with one field, by channel number."""
    return [tifffile.imread(next(folder.glob(f"*-ch{channel}sk1*.tiff"))) for channel in range(1, channels + 1)]


@pytest.fixture
def jump(real_data, tmp_path) -> ShardSet:
    root = real_data / "cpjump1" / "images"
    build("jump", root, tmp_path / "out", validation_experiments=["FK-866"], progress=False)
    return ShardSet.open(tmp_path / "out")


def test_jump_wells_equal_their_files(jump, real_data):
    wells = jump.wells.set_index("treatment")
    assert dict(wells["well"]) == {"AMG900": "N09", "DMSO": "D14", "FK-866": "D08"}
    assert dict(wells["split"]) == {"AMG900": "train", "DMSO": "train", "FK-866": "validation"}
    assert jump.manifest.channels == tuple(f"ch{number}" for number in range(1, 9))
    for index, treatment in enumerate(jump.wells["treatment"]):
        expected = np.stack(files(real_data / "cpjump1" / "images" / treatment, 8))
        assert expected.shape == (8, 1080, 1080)
        assert np.array_equal(jump.read_well(index), expected)
        assert np.array_equal(jump.read_crop(index, 824, 311, 256), expected[:, 824:1080, 311:567])


def test_jump_crops_standardise_to_finite_values(jump):
    (batch,) = training_batches(jump, jump.indices("train"), crop=256, batch=4, seed=0, first_batch=0, last_batch=1)
    images = self_standardise(batch.images)
    assert images.shape == (4, 8, 256, 256)
    assert images.isfinite().all()
    assert images.mean((2, 3)).abs().max() < 1e-3
    assert sum(len(tiles.wells) for tiles in well_tiles(jump, jump.indices("train"), crop=256, batch=8)) == 2 * 16


def test_cell_painting_well_equals_its_files(real_data, tmp_path):
    root = real_data / "cellpainting"
    names = "ch2=MitoTracker,ch3=AGP,ch4=RNA,ch5=ER,ch6=DNA,ch1=Brightfield"
    build("jump", root, tmp_path / "out", options={"channels": names}, validation_fraction=0, progress=False)
    shards = ShardSet.open(tmp_path / "out")
    assert shards.wells[["key", "plate"]].to_numpy().tolist() == [["BR00143976_C03_C03_f03", "BR00143976_C03"]]
    assert shards.manifest.channels == ("Brightfield", "MitoTracker", "AGP", "RNA", "ER", "DNA")
    assert np.array_equal(shards.read_well(0), np.stack(files(root / "BR00143976_C03", 6)))


def test_dim_sixteen_bit_wells_become_eight_bit_by_a_stated_range(real_data, tmp_path):
    """By a file:// URL, and through load_data.csv, like a downloaded plate: the same pixels."""
    root = real_data / "cellpainting"
    (tmp_path / "load_data.csv").write_text(
        "Metadata_Plate,Metadata_Well,Metadata_Site,FileName_OrigDNA,PathName_OrigDNA,FileName_OrigER,PathName_OrigER\n"
        f"BR00143976,C03,3,r03c03f03p01-ch6sk1fk1fl1.tiff,{root}/BR00143976_C03,"
        f"r03c03f03p01-ch5sk1fk1fl1.tiff,{root}/BR00143976_C03\n"
    )
    build(
        "load_data", f"file://{tmp_path}", tmp_path / "out", eight_bit="0:8191", validation_fraction=0, progress=False
    )
    shards = ShardSet.open(tmp_path / "out")
    assert (shards.manifest.channels, shards.manifest.pixel_type) == (("DNA", "ER"), "uint8")
    stored = np.stack([tifffile.imread(next(root.glob(f"*/*-ch{number}sk1*.tiff"))) for number in (6, 5)]).astype(float)
    assert np.array_equal(shards.read_well(0), np.floor(255 * stored.clip(0, 8191) / 8191 + 0.5))


def test_real_wells_are_refused_as_the_wrong_release(real_data, tmp_path):
    with pytest.raises(LayoutError, match=r"metadata.csv: no such table"):
        build("rxrx3", real_data / "cpjump1" / "images", tmp_path / "out", progress=False)
