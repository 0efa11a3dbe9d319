"""Figures of reconstructions: masked patches, brightfield channels, and errors."""

from io import BytesIO

import numpy as np
import pytest

from analysis.figures.reconstructions import ReconstructionRow, reconstructions


def crop(channels, label="well A"):
    rng = np.random.default_rng(0)
    original = rng.normal(size=(channels, 16, 16)).astype(np.float32)
    mask = np.kron(np.eye(2, dtype=bool), np.ones((8, 8), dtype=bool))
    return ReconstructionRow(label, original, mask, np.where(mask, 0, original))


def test_masked_patches_are_grey_and_visible_ones_as_in_the_original():
    row = crop(6)
    figure = reconstructions([row], list("abcdef"))
    original, masked, reconstruction = (axes.images[0].get_array() for axes in figure.axes)
    assert (masked[row.mask] == np.float32(0.8)).all()
    np.testing.assert_array_equal(masked[~row.mask], original[~row.mask])
    np.testing.assert_array_equal(reconstruction[~row.mask], original[~row.mask])
    assert not np.array_equal(reconstruction[row.mask], original[row.mask])


def test_brightfield_channels_get_a_grey_row_of_their_own():
    names = ["DNA", "ER", "RNA", "AGP", "Mito", "Brightfield", "BrightfieldLow", "HighZBrightfield"]
    figure = reconstructions([crop(8)], names)
    assert [figure.axes[index].get_ylabel() for index in (0, 3)] == ["well A\nfluorescence", "well A\nbrightfield"]
    colour, grey = (figure.axes[index].images[0].get_array() for index in (0, 3))
    assert np.ptp(grey, axis=2).max() == 0
    assert np.ptp(colour, axis=2).max() > 0.1


@pytest.mark.parametrize(
    ("rows", "channels", "message"),
    [
        ([], ["a"], "no crops to draw"),
        ([crop(6)], ["a"], r"well A: original \(6, 16, 16\).*of 1 channels"),
        ([crop(9)], list("abcdefghi"), "9 channels in one composite, but only 8 hues"),
    ],
)
def test_crops_that_make_no_figure_are_rejected(rows, channels, message):
    with pytest.raises(ValueError, match=message):
        reconstructions(rows, channels)


def test_a_well_is_named_as_it_is():
    figure = reconstructions([crop(6, label="$\\frac$ $x$")], list("abcdef"))
    assert figure.axes[0].get_ylabel() == "$\\frac$ $x$"
    figure.savefig(BytesIO())
