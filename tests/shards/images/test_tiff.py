"""TIFF files: what tifffile decodes is decoded as it does, and what a file claims is checked page by page."""

import io
import re
import struct
from functools import partial

import imagecodecs
import numpy as np
import pytest
import tifffile
from hostile_files import BOMBS, SIDE, tiff
from tiff_files import entry, pages, samples, written

from shards.errors import ImageError
from shards.images.headers import MAX_WELL_BYTES
from shards.images.tiff import MAX_PAGES, MAX_SEGMENTS, decode_tiff

VALUES = np.arange(96 * 80, dtype=np.uint16).reshape(96, 80)


STACK = np.stack([VALUES, VALUES[::-1], VALUES // 3])
STACKS = [
    {"metadata": {"axes": "ZYX"}},
    {"metadata": None},
    {"imagej": True, "metadata": {"axes": "ZYX"}},
    {"ome": True, "metadata": {"axes": "ZYX"}},
    {"truncate": True},
    {"compression": "zlib"},
]
"""How tifffile may write a stack: with a header per page or only one, and with metadata of several kinds."""


@pytest.mark.parametrize("compression", ["zlib", "lzw", "zstd", "packbits", "lzma", "jpeg2000", None])
@pytest.mark.parametrize("layout", [{"rowsperstrip": 7}, {"tile": (32, 16)}])
def test_strips_and_tiles_are_decoded(compression, layout):
    data = written(VALUES, compression=compression, **layout)
    assert np.array_equal(decode_tiff(data, VALUES.nbytes).pixels, VALUES)


def test_a_jpeg_strip_is_decoded_as_pillow_decodes_the_stream():
    stream = imagecodecs.jpeg_encode(np.full((64, 64), 9, np.uint8))
    assert np.array_equal(
        decode_tiff(tiff(64, 64, stream, compression=7), 1 << 20).pixels, imagecodecs.jpeg_decode(stream)
    )


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("area.tif", f"claims {SIDE} x {SIDE} pixels of uint8; {MAX_WELL_BYTES} bytes are the limit"),
        ("far.tif", "claims 2147483648 x 2147483648 pixels"),
        ("tile.tif", "claims 1 strips or tiles of 1099511627776 pixels"),
        ("pages.tif", f"has more than {MAX_PAGES} pages"),
        ("j2k.tif", f"has a strip or tile that claims {SIDE**2} pixels instead of 4096"),
        ("jpeg.tif", f"has a strip or tile that claims {SIDE**2} pixels instead of 4096"),
        ("webp.tif", "has compression 50001; possible are none, LZW,"),
    ],
)
def test_each_claim_is_refused_by_name(name, message):
    with pytest.raises(ImageError, match=f"^{re.escape(message)}"):
        decode_tiff(BOMBS[name], MAX_WELL_BYTES)


def test_the_limit_counts_decoded_bytes():
    data = written(VALUES, compression="zlib")
    assert len(data) < VALUES.nbytes
    with pytest.raises(ImageError, match=f"{VALUES.nbytes - 1} bytes are the limit"):
        decode_tiff(data, VALUES.nbytes - 1)


def test_too_many_tiles_are_not_visited_one_by_one():
    """A tile of one pixel each."""
    with pytest.raises(ImageError, match=f"claims {4096 * 4096} strips or tiles of 1 pixels"):
        decode_tiff(tiff(4096, 4096, compression=8, tile=1), MAX_WELL_BYTES)
    assert MAX_SEGMENTS < 4096 * 4096


@pytest.mark.parametrize("options", STACKS)
def test_several_planes_are_refused_however_they_are_stored(options):
    with pytest.raises(ImageError, match=r"holds 3 (z-)?planes; choose one with --plane N, or their maximum with"):
        decode_tiff(written(STACK, photometric="minisblack", **options), MAX_WELL_BYTES)


@pytest.mark.parametrize("options", STACKS)
@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_a_plane_is_picked_however_they_are_stored(options, byteorder):
    data = written(STACK, photometric="minisblack", byteorder=byteorder, **options)
    for number, values in enumerate(STACK, start=1):
        assert np.array_equal(decode_tiff(data, MAX_WELL_BYTES, number).pixels, values)
    assert np.array_equal(decode_tiff(data, MAX_WELL_BYTES, "max").pixels, STACK.max(axis=0))
    with pytest.raises(ImageError, match="holds 3 planes, but plane 4 was chosen"):
        decode_tiff(data, MAX_WELL_BYTES, 4)


@pytest.mark.parametrize("shape", [(1, 96, 80), (96, 80, 1), (96, 1, 80), (1, 1, 96, 80), (1, 96, 80, 1)])
@pytest.mark.parametrize("options", [{}, {"ome": True}, {"imagej": True}, {"truncate": True}, {"compression": "zlib"}])
@pytest.mark.parametrize("photometric", ["minisblack", "miniswhite"])
def test_axes_of_length_one_are_dropped(shape, options, photometric):
    """Of some of them tifffile makes 96 pages of 1 x 80 or 80 x 1."""
    data = written(VALUES.reshape(shape), photometric=photometric, **options)
    image = decode_tiff(data, MAX_WELL_BYTES)
    assert np.array_equal(image.pixels, VALUES if photometric == "minisblack" else 65535 - VALUES)


@pytest.mark.parametrize("shape", [(3, 96, 1, 80), (3, 96, 80, 1)])
@pytest.mark.parametrize(
    "options",
    [{}, {"metadata": None}, {"truncate": True}, {"ome": True, "metadata": {"axes": "ZCYX"}}, {"compression": "zlib"}],
)
def test_planes_of_a_stack_are_never_rows_of_one_image(shape, options):
    data = written(STACK.reshape(shape), photometric="minisblack", **options)
    with pytest.raises(ImageError, match=r"holds (3|288) |has shape \(288, 80, 1\)"):
        decode_tiff(data, MAX_WELL_BYTES)


def pyramid(values: np.ndarray, planes: int = 1, **options) -> bytes:
    """Pages of full resolution, then two smaller ones of the first, marked as `options` say."""
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as tif:
        for number in range(planes):
            tif.write(values + number, metadata=None)
        for step in (2, 4):
            tif.write(values[::step, ::step], metadata=None, **options)
    return file.getvalue()


def test_a_pyramid_gives_its_full_resolution():
    for options in ({"subfiletype": 1}, {}):
        assert np.array_equal(decode_tiff(pyramid(VALUES, **options), MAX_WELL_BYTES).pixels, VALUES)
        with pytest.raises(ImageError, match="holds 2 planes"):
            decode_tiff(pyramid(VALUES, 2, **options), MAX_WELL_BYTES)
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as tif:
        tif.write(VALUES, subifds=1, metadata=None)
        tif.write(VALUES[::2, ::2], subfiletype=1, metadata=None)
    assert np.array_equal(decode_tiff(file.getvalue(), MAX_WELL_BYTES).pixels, VALUES)


def test_pages_of_full_size_are_planes_though_they_are_marked_as_reduced():
    for marks in ((1, 1, 1), (0, 1, 1)):
        file = io.BytesIO()
        with tifffile.TiffWriter(file) as tif:
            for values, mark in zip(STACK, marks, strict=True):
                tif.write(values, subfiletype=mark, metadata=None)
            tif.write(VALUES[::2, ::2], subfiletype=1, metadata=None)
        with pytest.raises(ImageError, match="holds 3 planes"):
            decode_tiff(file.getvalue(), MAX_WELL_BYTES)
        assert np.array_equal(decode_tiff(file.getvalue(), MAX_WELL_BYTES, "max").pixels, STACK.max(axis=0))


@pytest.mark.parametrize("plane", [None, 1, "max"])
@pytest.mark.parametrize("options", [{}, {"metadata": None}, {"truncate": True}, {"compression": "zlib"}])
def test_an_array_whose_last_axis_is_channels_is_no_stack(plane, options):
    """Of (H, W, 5) tifffile makes H pages of W x 5."""
    with pytest.raises(ImageError, match=r"has shape \(96, 80, 5\); one greyscale image per channel is needed"):
        decode_tiff(written(np.stack([VALUES] * 5, axis=-1), **options), MAX_WELL_BYTES, plane)


def test_a_small_picture_in_front_is_passed_over_if_it_is_marked_and_refused_if_it_is_not():
    for subfiletype in (1, 0):
        file = io.BytesIO()
        with tifffile.TiffWriter(file) as tif:
            tif.write(VALUES[::4, ::4], subfiletype=subfiletype, metadata=None)
            tif.write(VALUES, metadata=None)
            tif.write(VALUES > 9, metadata=None, subfiletype=4, photometric="miniswhite")  # a mask
        if subfiletype:
            assert np.array_equal(decode_tiff(file.getvalue(), MAX_WELL_BYTES).pixels, VALUES)
        else:
            with pytest.raises(ImageError, match="has a page that is larger than its first"):
                decode_tiff(file.getvalue(), MAX_WELL_BYTES)


@pytest.mark.parametrize("bits", [2, 4, 8, 12, 16])
@pytest.mark.parametrize("planes", [1, 2])
def test_white_is_zero_is_turned(bits, planes):
    """Packed samples, written and read by imagecodecs' own functions; tifffile writes no 12 bits."""
    values = np.stack([np.arange(64 * 64).reshape(64, 64) % 2**bits, np.full((64, 64), 2**bits // 3)])[:planes]
    values = values.astype("<u2" if bits > 8 else np.uint8)
    data = pages([samples(value, bits) for value in values], (64, 64), {258: bits, 262: 0})
    image = decode_tiff(data, MAX_WELL_BYTES, "max")
    assert image.turned
    assert image.pixels.dtype == values.dtype
    assert np.array_equal(image.pixels, (2**bits - 1 - values).max(axis=0))
    black = decode_tiff(data.replace(entry(262, 0), entry(262, 1)), MAX_WELL_BYTES, "max")
    assert (black.turned, np.array_equal(black.pixels, values.max(axis=0))) == (False, True)


@pytest.mark.parametrize(
    "options",
    [
        {"rowsperstrip": 7},
        {"tile": (32, 16)},
        {"byteorder": ">"},
        {"bigtiff": True},
        {"compression": "lzw", "predictor": True, "byteorder": ">"},
        {"compression": "zstd", "tile": (32, 16)},
        {"compression": "jpeg2000"},
    ],
)
def test_white_is_zero_is_turned_on_every_way_to_the_pixels(options):
    data = written(VALUES, photometric="miniswhite", **options)
    assert np.array_equal(decode_tiff(data, MAX_WELL_BYTES).pixels, 65535 - VALUES)


def test_without_a_photometric_interpretation_zero_is_black():
    data = pages([bytes(range(64)) * 64], (64, 64), {258: 8})
    assert np.array_equal(decode_tiff(data, MAX_WELL_BYTES).pixels[0], np.arange(64))


@pytest.mark.parametrize("factor", [256, 257])
@pytest.mark.parametrize("bits", [4, 8])
def test_a_palette_of_greys_gives_grey_values(factor, bits):
    greys = np.random.default_rng(0).permutation(256)[: 2**bits]
    indices = (np.arange(64 * 64).reshape(64, 64) % 2**bits).astype(np.uint8)
    colours = np.tile(greys * factor, 3).astype("<u2").tobytes()
    data = pages([samples(indices, bits)], (64, 64), {258: bits, 262: 3, 320: colours})
    image = decode_tiff(data, MAX_WELL_BYTES).pixels
    assert image.dtype == np.uint8
    assert np.array_equal(image, greys[indices])
    deep = np.tile(greys * 97 + 3, 3).astype("<u2").tobytes()
    data = pages([samples(indices, bits)], (64, 64), {258: bits, 262: 3, 320: deep})
    assert np.array_equal(decode_tiff(data, MAX_WELL_BYTES).pixels, greys[indices] * 97 + 3)


def test_a_palette_that_was_written_with_8_bit_entries_gives_8_bits():
    greys = np.random.default_rng(0).permutation(256)
    data = pages([bytes(range(64)) * 64], (64, 64), {258: 8, 262: 3, 320: np.tile(greys, 3).astype("<u2").tobytes()})
    image = decode_tiff(data, MAX_WELL_BYTES).pixels
    assert image.dtype == np.uint8
    assert np.array_equal(image[0], greys[:64])


def test_images_with_one_palette_have_one_pixel_type():
    """Though one of them uses no entry but black."""
    tags = {258: 8, 262: 3, 320: np.tile(np.arange(256) * 97, 3).astype("<u2").tobytes()}
    for value in (0, 9):
        image = decode_tiff(pages([bytes([value]) * 64 * 64], (64, 64), tags), MAX_WELL_BYTES).pixels
        assert (image.dtype, image[0, 0]) == (np.uint16, value * 97)


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        (
            {258: 8, 262: 3, 320: np.arange(768).astype("<u2").tobytes()},
            r"palette of colours, entry 0 is \(0, 256, 512\)",
        ),
        ({258: 8, 262: 3}, "has no palette, but its pixels are indices into one"),
        ({258: 8, 262: 5}, r"holds ink \(PhotometricInterpretation 5\); grey values are needed"),
        ({258: 8, 262: 32803}, "holds a colour filter array"),
        ({258: 1, 262: 0}, "holds bool pixels"),
        ({258: 16, 262: 1, 339: 2}, "holds int16 pixels; uint8 or uint16 is needed"),
        ({258: 8, 262: 0, 339: 2}, "holds int8 pixels"),
        ({258: 16, 262: 1, 339: 3}, "holds float16 pixels"),
        ({258: 32, 262: 1}, "holds uint32 pixels"),
        ({258: 8, 262: 2, 277: 3}, r"has shape \(64, 64, 3\)"),
        ({258: 8, 262: 1, 277: 2}, r"has shape \(64, 64, 2\)"),
        ({258: 8, 262: 5, 277: 4}, r"has shape \(64, 64, 4\)"),
    ],
)
@pytest.mark.parametrize("plane", [None, 1, "max"])
def test_what_are_no_grey_values_is_refused_with_the_reason(tags, message, plane):
    data = pages([bytes(64 * 64 * 4)], (64, 64), tags)
    with pytest.raises(ImageError, match=message):
        decode_tiff(data, MAX_WELL_BYTES, plane)


def test_true_colour_is_no_stack():
    for values, config in ((np.zeros((96, 80, 3), np.uint8), "contig"), (np.zeros((3, 96, 80), np.uint8), "separate")):
        for photometric in ("rgb", "minisblack"):
            data = written(values, photometric=photometric, planarconfig=config)
            for plane in (None, 1, "max"):
                with pytest.raises(ImageError, match=rf"has shape {re.escape(str(values.shape))}; one greyscale"):
                    decode_tiff(data, MAX_WELL_BYTES, plane)


def test_a_void_sample_format_is_one_of_numbers():
    data = pages([VALUES.astype("<u2").tobytes()], VALUES.shape, {258: 16, 262: 1, 339: 4})
    assert np.array_equal(decode_tiff(data, MAX_WELL_BYTES).pixels, VALUES)


def test_a_cut_file_is_not_decoded():
    data = written(VALUES)
    for end in (10, 100, 200, len(data) - 1):
        with pytest.raises((ImageError, ValueError, tifffile.TiffFileError)):
            decode_tiff(data[:end], MAX_WELL_BYTES)


def by_libtiff(planes: np.ndarray) -> bytes:
    """Pixels, then their page, and so on."""
    return pages([values.tobytes() for values in planes], planes.shape[1:], {258: 16, 262: 1})


@pytest.mark.parametrize("write", [by_libtiff, *(partial(written, photometric="minisblack", **o) for o in STACKS)])
@pytest.mark.parametrize("plane", [None, "max"])
def test_a_stack_that_was_cut_is_never_one_of_fewer_planes(write, plane):
    data = write(STACK)
    for part in np.arange(1, 12) / 12.5:
        with pytest.raises((ImageError, ValueError, RuntimeError, tifffile.TiffFileError)):
            decode_tiff(data[: int(part * len(data))], MAX_WELL_BYTES, plane)


def test_a_file_of_one_page_may_name_any_place_for_a_next_one():
    data = by_libtiff(VALUES[None])
    for wrong in (b"\xff\xff\xff\xff", struct.pack("<I", len(data)), b""):
        assert np.array_equal(decode_tiff(data[:-4] + wrong, MAX_WELL_BYTES).pixels, VALUES)
    assert np.array_equal(decode_tiff(data[:-4] + b"\xff" * 4 + bytes(100), MAX_WELL_BYTES).pixels, VALUES)


def test_bigtiff_files_are_decoded():
    assert np.array_equal(decode_tiff(written(VALUES, bigtiff=True), MAX_WELL_BYTES).pixels, VALUES)
