"""Covers `grey` too: palettes as grey values, in every format that has them, and modes that are no grey values."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from shards.errors import ImageError
from shards.images.decode import decode
from shards.images.grey import looked_up, turned
from shards.images.headers import MAX_WELL_BYTES

VALUES = np.arange(60 * 50, dtype=np.uint16).reshape(60, 50)
INDICES = (VALUES % 256).astype(np.uint8)


def saved(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def with_palette(indices: np.ndarray, palette: np.ndarray) -> Image.Image:
    """An image of mode P; the palette is (E, 3)."""
    image = Image.fromarray(indices)
    image.putpalette(palette.astype(np.uint8).ravel().tolist())
    return image


def greys(order: np.ndarray) -> np.ndarray:
    return np.stack([order] * 3, axis=1)


@settings(max_examples=50)
@given(kind=st.sampled_from(["PNG", "GIF", "BMP", "TGA", "PCX", "TIFF"]), seed=st.integers(0, 2**32 - 1))
def test_any_palette_of_greys_gives_its_grey_values(kind, seed):
    random = np.random.default_rng(seed)
    indices, order = random.integers(0, 256, (9, 12), np.uint8), random.integers(0, 256, 256, np.uint8)
    assert np.array_equal(decode(saved(with_palette(indices, greys(order)), kind)).pixels, order[indices])


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("options", [{}, {"transparency": 0}, {"transparency": bytes([0, 128])}])
def test_a_png_palette_of_few_bits_or_with_transparency(bits, options):
    order = np.random.default_rng(1).permutation(256)[: 2**bits]
    indices = (VALUES % 2**bits).astype(np.uint8)
    data = saved(with_palette(indices, greys(order)), "PNG", bits=bits, **options)
    assert data[24] == bits
    image = decode(data)
    assert (image.pixels.dtype, image.turned) == (np.uint8, False)
    assert np.array_equal(image.pixels, order[indices])


@pytest.mark.parametrize("kind", ["PNG", "GIF", "BMP", "TGA", "PCX", "TIFF"])
def test_a_palette_of_colours_is_refused_if_a_pixel_uses_one(kind):
    palette = greys(np.arange(255, -1, -1))
    palette[7] = (0, 200, 30)
    with pytest.raises(ImageError, match=r"^has a palette of colours, entry 7 is \(0, (200|51200), (30|7680)\)"):
        decode(saved(with_palette(INDICES, palette), kind))
    without = np.where(INDICES == 7, 8, INDICES).astype(np.uint8)
    assert np.array_equal(decode(saved(with_palette(without, palette), kind)).pixels, 255 - without)


@pytest.mark.parametrize(
    ("image", "kind", "message"),
    [
        (Image.fromarray(INDICES > 9), "PNG", "holds 1-bit pixels; uint8 or uint16 is needed"),
        (Image.fromarray(INDICES > 9), "BMP", "holds 1-bit pixels"),
        (Image.fromarray(INDICES).convert("RGB"), "PNG", r"has shape \(60, 50, 3\)"),
        (Image.fromarray(INDICES).convert("RGB"), "JPEG", r"has shape \(60, 50, 3\)"),
        (Image.fromarray(INDICES).convert("RGBA"), "PNG", r"has shape \(60, 50, 4\)"),
        (Image.fromarray(INDICES).convert("LA"), "PNG", r"has shape \(60, 50, 2\)"),
        (Image.fromarray(INDICES).convert("CMYK"), "JPEG", r"has shape \(60, 50, 4\)"),
        (Image.fromarray(VALUES), "PPM", "holds int32 pixels"),
    ],
)
def test_other_modes_are_refused_with_the_reason(image, kind, message):
    with pytest.raises(ImageError, match=f"^{message}"):
        decode(saved(image, kind))


def test_a_jpeg_of_inverted_inks_is_refused():
    """Adobe's CMYK and YCCK."""
    data = bytearray(saved(Image.fromarray(INDICES).convert("CMYK"), "JPEG"))
    at = data.index(b"Adobe")
    data[at + 11] = 2  # YCCK
    with pytest.raises(ImageError, match=r"has shape \(60, 50, 4\)"):
        decode(bytes(data))


@pytest.mark.parametrize("kind", ["GIF", "PNG"])
def test_an_animation_is_refused(kind):
    frames = [Image.fromarray(INDICES + step) for step in range(3)]
    with pytest.raises(ImageError, match=r"^is an animation of several frames"):
        decode(saved(frames[0], kind, save_all=True, append_images=frames[1:]))


def test_16_bits_are_not_cut_to_8():
    assert np.array_equal(decode(saved(Image.fromarray(VALUES), "PNG")).pixels, VALUES)
    with pytest.raises(ImageError, match=r"^is an SGI file of 16 bits per sample"):
        decode(saved(Image.fromarray(INDICES), "SGI", bpc=2))
    assert np.array_equal(decode(saved(Image.fromarray(INDICES), "SGI")).pixels, INDICES)


def test_gamma_and_significant_bits_change_nothing():
    """What a viewer would do to the values is not done."""
    from PIL.PngImagePlugin import PngInfo

    chunks = PngInfo()
    chunks.add(b"gAMA", (100000 // 3).to_bytes(4, "big"))
    chunks.add(b"sBIT", bytes([12]))
    assert np.array_equal(decode(saved(Image.fromarray(VALUES), "PNG", pnginfo=chunks)).pixels, VALUES)


def test_a_file_of_one_plane_has_no_other():
    data = saved(Image.fromarray(INDICES), "PNG")
    for plane in (None, 1, "max"):
        assert np.array_equal(decode(data, MAX_WELL_BYTES, plane).pixels, INDICES)
    with pytest.raises(ImageError, match=r"^holds 1 plane, but plane 2 was chosen"):
        decode(data, MAX_WELL_BYTES, 2)


def test_an_index_beyond_the_palette_is_refused():
    with pytest.raises(ImageError, match="uses entry 9 of a palette of 4 entries"):
        looked_up(np.full((2, 2), 9, np.uint8), greys(np.arange(4)).astype(np.uint8))


def test_turning_twice_gives_the_same():
    for bits, values in ((8, INDICES), (12, VALUES), (16, VALUES)):
        once = turned(values, bits)
        assert once.turned
        assert once.pixels.dtype == values.dtype
        assert once.pixels[0, 0] == 2**bits - 1
        assert np.array_equal(turned(once.pixels, bits).pixels, values)
