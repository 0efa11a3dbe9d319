"""The choice of a codec: by name, or by a trial on the wells, stated in the manifest."""

import numpy as np
import pytest
from PIL import Image

from shards.builder.build_set import build
from shards.errors import BuildError
from shards.format.codecs import CODECS
from shards.reader.shard_set import ShardSet


def built(root, output, **options) -> ShardSet:
    build("rxrx3", root, output, progress=False, **options)
    return ShardSet.open(output)


@pytest.mark.slow
def test_every_codec_and_chunk_gives_the_same_pixels(screen, tmp_path):
    root = screen(size=70, dtype="uint16")
    expected = None
    for codec in (*CODECS, "trial"):
        shards = built(root, tmp_path / codec, codec=codec, chunk=32)
        wells = np.stack([shards.read_well(index) for index in range(len(shards.wells))])
        assert expected is None or np.array_equal(wells, expected)
        assert shards.manifest.chunk == 32
        assert shards.manifest.codec == codec or codec == "trial"
        expected = wells


@pytest.mark.slow
def test_a_trial_chooses_what_compresses_best_and_stores_the_ratios(screen, tmp_path):
    """Smooth ramps shrink most as differences; noise over the full range is stored as it is."""
    root = screen(size=64)
    assert built(root, tmp_path / "noise", codec="trial").manifest.codec == "none"
    ramp = np.add.outer(np.arange(64), 3 * np.arange(64)).astype(np.uint8)
    for number, path in enumerate(sorted(root.rglob("*.png"))):
        Image.fromarray(ramp + np.uint8(number)).save(path)
    manifest = built(root, tmp_path / "ramp", codec="trial").manifest
    assert manifest.codec == "delta+zstd"
    assert manifest.made_with["codec"] == "trial"
    assert manifest.codec_trial["delta+zstd"] == max(manifest.codec_trial.values())
    assert manifest.codec_trial["none"] == pytest.approx(1, abs=0.01)
    assert built(root, tmp_path / "named").manifest.codec_trial == {}


def test_a_trial_skips_unreadable_images(screen, tmp_path):
    root = screen(experiments=1, wells=2, size=64)
    (root / "gene-001" / "Plate1" / "B02_s1_w1.png").write_text("damaged")
    shards = built(root, tmp_path / "out", codec="trial", on_error="quarantine", validation_fraction=0)
    assert len(shards.wells) == 1


def test_other_names_and_sides_are_refused(screen, tmp_path):
    root = screen()
    with pytest.raises(BuildError, match=r"no codec 'gzip'; there are none, lz4, .*, and trial to choose among them"):
        built(root, tmp_path / "a", codec="gzip")
    with pytest.raises(BuildError, match=r"the chunk's side must be one of .* pixels, got 60"):
        built(root, tmp_path / "b", chunk=60)
