"""Decoding: what is read, what is refused with which message, and the rules that convert 16 bits to 8."""

import imagecodecs
import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from shards.build import main
from shards.builder.build_set import build
from shards.errors import ImageError
from shards.images.decode import EightBit, read_image, read_well
from shards.reader.shard_set import ShardSet


def test_images_that_cannot_be_used_are_named(tmp_path):
    broken = {
        "colour.tif": np.zeros((4, 4, 3), np.uint8),
        "float.tif": np.zeros((4, 4), np.float32),
        "small.tif": np.zeros((2, 2), np.uint8),
        "good.tif": np.zeros((4, 4), np.uint8),
    }
    for name, image in broken.items():
        tifffile.imwrite(tmp_path / name, image)
    (tmp_path / "cut.tif").write_bytes((tmp_path / "good.tif").read_bytes()[:100])
    (tmp_path / "text.png").write_text("not an image")
    for name, message in {
        "colour.tif": r"shape \(4, 4, 3\)",
        "float.tif": "holds float32 pixels; uint8 or uint16 is needed",
        "cut.tif": "cannot be decoded",
        "text.png": "cannot be decoded",
        "none.png": "does not exist",
    }.items():
        with pytest.raises(ImageError, match=f"{name} .*{message}"):
            read_image(str(tmp_path / name))
    with pytest.raises(ImageError, match=r"small.tif is \(2, 2\) uint8, but .*good.tif is \(4, 4\) uint8"):
        read_well([str(tmp_path / "good.tif"), str(tmp_path / "small.tif")])


def test_sixteen_bit_and_big_endian_images_keep_their_values(tmp_path):
    values = np.array([[0, 1], [256, 65535]], np.uint16)
    tifffile.imwrite(tmp_path / "big.tif", values, byteorder=">")
    Image.fromarray(values).save(tmp_path / "deep.png")
    for name in ("big.tif", "deep.png"):
        image = read_image(str(tmp_path / name))
        assert image.dtype == np.dtype("uint16")
        assert np.array_equal(image, values)


def test_formats_are_recognised_by_content_not_by_name(tmp_path):
    values = np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000
    np.save(tmp_path / "raw.npy", values)
    tifffile.imwrite(tmp_path / "big.btf", values, bigtiff=True)
    tifffile.imwrite(tmp_path / "called.png", values, compression="zlib")
    (tmp_path / "lossless.jp2").write_bytes(imagecodecs.jpeg2k_encode(values, reversible=True))
    (tmp_path / "stream.bin").write_bytes(imagecodecs.jpeg2k_encode(values, reversible=True, codecformat="j2k"))
    for path in tmp_path.iterdir():
        assert np.array_equal(read_image(str(path)), values), path.name


def test_a_pickled_array_is_not_opened(tmp_path):
    np.save(tmp_path / "a.npy", np.array([{"x": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ImageError, match=r"a.npy cannot be decoded: Object arrays cannot be loaded"):
        read_image(str(tmp_path / "a.npy"))


VALUES = np.arange(65536, dtype=np.uint16).reshape(1, 256, 256)


@pytest.mark.slow
@given(st.integers(0, 65534).flatmap(lambda low: st.tuples(st.just(low), st.integers(low + 1, 65535))))
def test_a_range_is_linear_clipped_and_rounded_half_up(limits):
    low, high = limits
    converted = EightBit(f"{low}:{high}").apply(VALUES).ravel()
    exact = [255 * (min(max(value, low), high) - low) / (high - low) for value in range(65536)]
    assert np.array_equal(converted, np.floor(np.array(exact) + 0.5))


def test_known_values():
    assert EightBit("shift").apply(np.array([0, 255, 256, 65535], np.uint16)).tolist() == [0, 0, 1, 255]
    # span 510: two source levels per step, so odd ones lie half-way and go up
    assert EightBit("100:610").apply(np.array([0, 100, 101, 102, 609, 610, 9999], np.uint16)).tolist() == [
        0, 0, 1, 1, 255, 255, 255,
    ]  # fmt: skip
    assert EightBit("0:4095").statement == "uint8 = floor(255 * (clip(uint16, 0, 4095) - 0) / (4095 - 0) + 1/2)"


@pytest.mark.parametrize("rule", ["", "shift8", "5", "7:7", "9:1", "-1:5", "0:65536", "a:b"])
def test_other_rules_are_refused(rule, screen, tmp_path, capsys):
    with pytest.raises(ValueError, match="expected 'shift', or LOW:HIGH"):
        EightBit(rule)
    command = ["--layout", "rxrx3", "--root", str(screen()), "--output", str(tmp_path / "out"), f"--eight-bit={rule}"]
    assert main(command) == 1
    assert "expected 'shift', or LOW:HIGH" in capsys.readouterr().err


def test_a_converted_set_holds_what_the_manifest_states(screen, tmp_path):
    root = screen(dtype="uint16")
    build("rxrx3", root, tmp_path / "deep", progress=False)
    build("rxrx3", root, tmp_path / "flat", eight_bit="1000:60999", progress=False)
    deep, flat = ShardSet.open(tmp_path / "deep"), ShardSet.open(tmp_path / "flat")
    assert (deep.manifest.pixel_type, deep.manifest.conversion) == ("uint16", None)
    assert flat.manifest.pixel_type == "uint8"
    assert flat.manifest.conversion == "uint8 = floor(255 * (clip(uint16, 1000, 60999) - 1000) / (60999 - 1000) + 1/2)"
    for index in range(len(deep.wells)):
        stored = deep.read_well(index).astype(float).clip(1000, 60999)
        assert np.array_equal(flat.read_well(index), np.floor(255 * (stored - 1000) / 59999 + 0.5))


def test_eight_bits_are_not_converted_again(screen, tmp_path):
    with pytest.raises(
        ImageError, match=r"metadata.csv, line \d+: image file .*_w1.png: 8-bit rule 'shift' needs uint16"
    ):
        build("rxrx3", screen(), tmp_path / "out", eight_bit="shift", progress=False)
