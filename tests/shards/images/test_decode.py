"""Decoding: what is read, what is refused with which message, and the rules that convert 16 bits to 8."""

import io
import subprocess
import sys

import imagecodecs
import numpy as np
import pytest
import tifffile
from hostile_files import BOMBS, not_files, npy
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from shards.build import main
from shards.builder.build_set import build
from shards.errors import ImageError
from shards.images import decode
from shards.images.decode import EightBit, read_image, read_well, read_well_image
from shards.images.decode import decode as decode_bytes
from shards.images.locations import planes_location
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


@settings(max_examples=60)
@given(data=st.data())
def test_an_array_in_any_guise_comes_back(data):
    """Axes of length one, byte order, order of axes in memory, format, and the plane of a stack."""
    planes = data.draw(st.integers(1, 4))
    dtype = data.draw(st.sampled_from(["u1", "<u2", ">u2"]))
    stack = np.random.default_rng(planes).integers(0, 256, (planes, 11, 13)).astype(dtype)
    plane = data.draw(st.sampled_from(["max", *range(1, planes + 1), *([None] if planes == 1 else [])]))
    shape = [size for size in stack.shape if size > 1]
    kind = data.draw(st.sampled_from(["C", "F", "tiff", "bigtiff", "lzw"]))
    places = [place for place in range(len(shape) + 1) if kind in ("C", "F") or place != len(shape) - 1]
    for axis in sorted(data.draw(st.lists(st.sampled_from(places), max_size=3)), reverse=True):
        shape.insert(axis, 1)
    file = io.BytesIO()
    if kind in ("C", "F"):
        np.save(file, np.array(stack.reshape(shape), order=kind))
    else:
        tifffile.imwrite(
            file, stack.reshape(shape), photometric="minisblack", bigtiff=kind == "bigtiff",
            compression="lzw" if kind == "lzw" else None, byteorder=data.draw(st.sampled_from("<>")),
        )  # fmt: skip
    expected = stack.max(axis=0) if plane == "max" else stack[(plane or 1) - 1]
    image = decode_bytes(file.getvalue(), plane=plane).pixels
    assert image.dtype == np.dtype(dtype).newbyteorder("=")
    assert np.array_equal(image, expected)


@pytest.mark.parametrize(
    "shape",
    [(5, 6, 3), (50, 60, 4), (50, 60, 6), (1, 50, 60, 16), (2, 3, 5, 6), (4, 4, 3), (0, 5, 6), (6,), ()],
)
def test_arrays_that_are_neither_an_image_nor_a_stack_are_refused(shape):
    """Colours, channels in the last axis, planes along two axes, nothing."""
    file = io.BytesIO()
    np.save(file, np.zeros(shape, np.uint8))
    for plane in (None, 1, "max"):
        with pytest.raises(
            ImageError, match=r"has shape \(.*; one greyscale image per channel is needed|holds no plane"
        ):
            decode_bytes(file.getvalue(), plane=plane)


@pytest.mark.timeout(20)
def test_a_stack_that_claims_to_be_endless_is_refused_at_once():
    for plane in (None, 1, 2**20, "max"):
        with pytest.raises((ImageError, ValueError), match=r"^holds 2147483648 planes; choose|cut short"):
            decode_bytes(npy((2**31, 48, 48)), plane=plane)


def test_the_images_of_a_well_that_were_turned_are_counted(tmp_path):
    values = np.arange(64, dtype=np.uint8).reshape(8, 8)
    for name in ("minisblack", "miniswhite"):
        tifffile.imwrite(tmp_path / name, values, photometric=name)
    black, white = str(tmp_path / "minisblack"), str(tmp_path / "miniswhite")
    well = read_well_image([white, black, white])
    assert well.turned == 2
    assert np.array_equal(well.pixels, [255 - values, values, 255 - values])
    assert read_well_image([black]).turned == 0
    stack = read_well_image([planes_location([black, white]), black])
    assert stack.turned == 1
    assert np.array_equal(stack.pixels, [255 - values, values])  # below 128, so the turned one is the brighter


def test_a_pickled_array_is_not_opened(tmp_path):
    np.save(tmp_path / "a.npy", np.array([{"x": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ImageError, match=r"a.npy cannot be decoded: Object arrays cannot be loaded"):
        read_image(str(tmp_path / "a.npy"))


@pytest.mark.timeout(30)
@pytest.mark.parametrize("name", BOMBS)
def test_a_file_that_claims_too_much_is_named_before_it_is_decoded(tmp_path, name):
    (tmp_path / name).write_bytes(BOMBS[name])
    refused = "claims|exceeds limit|has more than 1000 pages|too small|INSUFFICIENT|has compression|unknown"
    with pytest.raises(ImageError, match=rf"image file .*{name} .*({refused})"):
        read_image(str(tmp_path / name))


def test_bombs_take_no_memory(tmp_path):
    """All of them in one process, whose peak is measured after the decoders have been imported."""
    np.save(tmp_path / "small.npy", np.zeros((4, 4), np.uint8))
    for name, content in BOMBS.items():
        (tmp_path / name).write_bytes(content)
    code = """
import resource, sys
from pathlib import Path
import imagecodecs, tifffile
from PIL import Image
from shards.errors import ImageError
from shards.images.decode import read_image
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
Image.init()
read_image(sys.argv[1] + "/small.npy")
before, refused = peak(), 0
for path in Path(sys.argv[1]).iterdir():
    try:
        read_image(str(path))
    except ImageError:
        refused += 1
print(refused, (peak() - before) // 1024)
"""
    ended = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True)
    refused, grown = map(int, ended.stdout.split())
    assert refused == len(BOMBS)
    assert grown < 100  # MB


def test_the_channels_of_a_well_share_its_limit(tmp_path, monkeypatch):
    np.save(tmp_path / "a.npy", np.zeros((100, 100), np.uint16))
    monkeypatch.setattr(decode, "MAX_WELL_BYTES", 60_000)
    assert read_well([str(tmp_path / "a.npy")] * 3).nbytes == 60_000
    with pytest.raises(ImageError, match=r"a.npy claims 100 x 100 pixels of uint16; 15000 bytes are the limit"):
        read_well([str(tmp_path / "a.npy")] * 4)


@pytest.mark.timeout(20)
def test_what_is_no_file_is_no_image(tmp_path):
    for path in not_files(tmp_path).values():
        with pytest.raises(ImageError, match=f"image file {path} cannot be read: .* not a regular file"):
            read_image(str(path))


def test_an_error_has_no_address_so_that_a_manifest_is_the_same_every_time(tmp_path):
    (tmp_path / "a.png").write_text("not an image")
    with pytest.raises(ImageError, match=r"a.png cannot be decoded: its format is unknown$"):
        read_image(str(tmp_path / "a.png"))


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
