"""Covers `pixel_ranges`: percentiles against numpy, what crops keep against training's own transform, merging."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from shards.builder.build_set import build
from shards.builder.pixel_ranges import BIN_OF, LARGEST, PixelRanges
from shards.format.manifest import MANIFEST, Manifest, read_manifest
from shards.format.source import LocalFolder
from shards.loader.transform import self_standardise


def images(count: int, side: int = 300) -> list[np.ndarray]:
    """Two channels: dim with a bright tail, and bright with a narrow spread."""
    random = np.random.default_rng(3)
    dim = random.gamma(2.0, 300, (count, side, side)).clip(0, 65535)
    narrow = random.normal(20_000, 400, (count, side, side)).clip(0, 65535)
    return list(np.stack([dim, narrow], axis=1).astype(np.uint16))


def test_bins_rise_hold_every_value_and_are_narrow() -> None:
    assert (np.diff(BIN_OF.astype(int)) >= 0).all()
    assert (LARGEST[BIN_OF] >= np.arange(65536)).all()
    assert (LARGEST[BIN_OF[:256]] == np.arange(256)).all()
    assert ((LARGEST[BIN_OF] - np.arange(65536)) <= np.arange(65536) / 128).all()


def test_percentiles_are_numpys_within_the_width_of_a_bin() -> None:
    ranges = PixelRanges()
    pixels = images(4)
    for image in pixels:
        ranges.add(image)
    found = ranges.by_channel(["dim", "narrow"])
    for channel, name in enumerate(("dim", "narrow")):
        true = np.percentile(np.stack(pixels)[:, channel], [5, 50, 95, 99.9])
        mine = [found[name].low, found[name].median, found[name].high, found[name].brightest]
        np.testing.assert_allclose(mine, true, rtol=0.05)  # of a grid of a fifth of the pixels
    assert found["narrow"].spread == pytest.approx(2 * 1.645 * 400, rel=0.15)


def test_what_parts_keep_is_what_training_measures() -> None:
    """The variance after the training's own transform, over the 64-pixel parts of an image."""
    image = images(1, side=128)[0]  # every pixel is sampled
    ranges = PixelRanges()
    ranges.add(image)
    parts = torch.from_numpy(image.reshape(2, 2, 64, 2, 64).transpose(1, 3, 0, 2, 4).reshape(4, 2, 64, 64))
    kept = self_standardise(parts).var(dim=(2, 3), correction=0).mean(0)
    mine = [one.standardised[64] for one in ranges.by_channel(["dim", "narrow"]).values()]
    np.testing.assert_allclose(mine, kept, atol=1e-3)
    assert max(mine) < 0.9


def test_records_add_up_to_what_one_would_have_counted() -> None:
    together, merged = PixelRanges(), PixelRanges()
    for image in images(6, side=80):
        together.add(image)
    for part in (images(6, side=80)[:1], images(6, side=80)[1:]):
        one = PixelRanges()
        for image in part:
            one.add(image)
        counted = one.counted()
        assert counted is not None
        merged.merge(type(counted).model_validate_json(counted.model_dump_json()))
    assert merged.by_channel("ab") == together.by_channel("ab")


def test_a_set_of_16_bits_says_its_ranges_and_one_of_8_bits_is_as_before(write_screen, tmp_path: Path) -> None:
    for dtype in ("uint8", "uint16"):
        screen = write_screen(tmp_path / dtype / "screen", dtype=dtype)
        built, _ = build("rxrx3", screen, tmp_path / dtype / "set", validation_fraction=0.3, progress=False)
        assert read_manifest(LocalFolder(tmp_path / dtype / "set")) == built
        assert list(built.pixel_ranges) == (list(built.channels) if dtype == "uint16" else [])
    content = json.loads((tmp_path / "uint8" / "set" / MANIFEST).read_text())
    assert not {"pixel_ranges", "notes"} & set(content)  # which earlier versions of this code would refuse


def test_ranges_of_other_channels_and_falling_percentiles_are_refused(write_screen, tmp_path: Path) -> None:
    built, _ = build("rxrx3", write_screen(tmp_path / "s", dtype="uint16"), tmp_path / "set", progress=False)
    content = built.model_dump(mode="json")
    one = content["pixel_ranges"].pop(built.channels[0])
    with pytest.raises(ValueError, match="'GFP' is none of the channels"):
        Manifest.model_validate({**content, "pixel_ranges": {"GFP": one}})
    with pytest.raises(ValueError, match="percentiles must not fall"):
        Manifest.model_validate({**content, "pixel_ranges": {built.channels[0]: {**one, "low": 65535, "high": 0}}})
