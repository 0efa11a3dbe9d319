"""Which planes are read, of how many, by which choice."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shards.errors import ImageError
from shards.images.grey import GreyImage
from shards.images.planes import PlanesDifferError, maximum, planes_to_read, single_axes


@settings(max_examples=30)
@given(count=st.integers(1, 2**40), number=st.integers(1, 2**40), axes=st.sampled_from("IZTP"))
def test_a_number_picks_its_plane_or_is_refused_with_the_count(count, number, axes):
    if number <= count:
        assert list(planes_to_read(count, axes, number)) == [number - 1]
    else:
        with pytest.raises(ImageError, match=rf"^holds {count} planes?, but plane {number} was chosen$"):
            planes_to_read(count, axes, number)


@pytest.mark.parametrize("axes", ["", "I", "Z", "T", "C", "CZ"])
def test_one_plane_needs_no_choice_whatever_the_metadata_say(axes):
    for plane in (None, "max", 1):
        assert list(planes_to_read(1, axes, plane)) == [0]


@pytest.mark.parametrize(
    ("axes", "plane", "message"),
    [
        ("Z", None, "holds 3 z-planes; choose one with --plane N, or their maximum with --plane max"),
        ("I", None, "holds 3 planes; choose one with --plane N, or their maximum with --plane max"),
        ("T", None, "holds 3 time points, not a z-stack; choose one with --plane N"),
        ("T", "max", "holds 3 time points, not a z-stack; choose one with --plane N"),
        ("P", "max", "holds 3 positions, not a z-stack; choose one with --plane N"),
        ("H", "max", "holds 3 planes along axis H, not a z-stack; choose one with --plane N"),
        (
            "C",
            None,
            "holds 3 planes of several channels by its metadata, not a z-stack; one channel per file is needed",
        ),
        (
            "C",
            "max",
            "holds 3 planes of several channels by its metadata, not a z-stack; one channel per file is needed",
        ),
        ("C", 1, "holds 3 planes of several channels by its metadata, not a z-stack; one channel per file is needed"),
        ("ZT", 1, "holds 3 planes along the axes Z and T; planes along one axis are needed"),
    ],
)
def test_what_is_not_one_image_is_refused(axes, plane, message):
    with pytest.raises(ImageError, match=f"^{message}$"):
        planes_to_read(3, axes, plane)


def test_no_plane_is_no_image():
    for plane in (None, "max", 1):
        with pytest.raises(ImageError, match="holds no plane"):
            planes_to_read(0, "I", plane)


def test_the_maximum_is_of_each_pixel_in_any_byte_order():
    stack = np.random.default_rng(0).integers(0, 65536, (4, 5, 6), np.uint16)
    planes = (GreyImage(plane.astype(order)) for plane, order in zip(stack, ["<u2", ">u2"] * 2, strict=True))
    image = maximum(planes)
    assert (image.pixels.dtype, image.turned) == (np.uint16, False)
    assert np.array_equal(image.pixels, stack.max(axis=0))
    assert maximum(GreyImage(stack[0], turned=number == 2) for number in range(3)).turned


def test_planes_that_differ_have_no_maximum():
    for other in (np.zeros((5, 5), np.uint8), np.zeros((5, 6), np.uint16)):
        with pytest.raises(PlanesDifferError, match=r"has planes of \(5, 6\) uint8 and of \(5, \d\) uint"):
            maximum(iter([GreyImage(np.zeros((5, 6), np.uint8)), GreyImage(other)]))


@pytest.mark.parametrize(
    ("shape", "kept"),
    [
        ((5, 6), (5, 6)), ((1, 6), (1, 6)), ((1, 5, 6), (5, 6)), ((5, 6, 1), (5, 6)), ((5, 1, 6), (5, 6)),
        ((1, 1, 5, 6), (5, 6)), ((1, 5, 6, 1), (5, 6)), ((3, 1, 5, 6), (3, 5, 6)), ((1, 1, 6), (1, 6)),
        ((5, 1, 1), (5, 1)), ((1, 1, 1), (1, 1)), ((3, 5, 6), (3, 5, 6)), ((6,), (6,)), ((1,), (1,)), ((), ()),
    ],
)  # fmt: skip
def test_axes_of_length_one(shape, kept):
    single = single_axes(shape)
    assert tuple(size for axis, size in enumerate(shape) if axis not in single) == kept
