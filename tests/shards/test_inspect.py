"""Inspect: statistics that can be worked out by hand, a picture with every channel, errors in one line."""

import os

import numpy as np
import pytest
from PIL import Image
from shard_files import write_set

from shards.builder.build_set import build
from shards.inspect import composite, composite_colours, downsample, main, statistics, stretch_contrast
from shards.reader.shard_set import ShardSet
from shards.verify import main as verify


def test_statistics_of_a_ramp():
    """0 .. 255 once each: mean 127.5, standard deviation sqrt((256**2 - 1) / 12), one pixel of 256 saturated."""
    image = np.stack([np.arange(256).reshape(16, 16), np.full((16, 16), 7)]).astype(np.uint8)
    ramp, flat = statistics(image, ["ramp", "flat"])
    assert (ramp.mean, ramp.minimum, ramp.maximum) == (127.5, 0, 255)
    assert ramp.std == pytest.approx((65535 / 12) ** 0.5)
    assert ramp.saturated == 1 / 256
    assert ramp.percentiles == pytest.approx((2.55, 127.5, 252.45, 254.745))
    assert (flat.mean, flat.std, flat.saturated, set(flat.percentiles)) == (7, 0, 0, {7})


def test_16_bit_saturation_is_that_of_the_type():
    image = np.array([[[65535, 255], [0, 65535]]], np.uint16)
    assert statistics(image, ["a"])[0].saturated == 0.5


def test_a_smaller_picture_averages_and_keeps_its_proportions():
    image = np.arange(1100 * 600, dtype=np.uint16).reshape(1, 1100, 600)
    small = downsample(image)
    assert small.shape == (1, 366, 200)
    assert small[0, 0, 0] == image[0, :3, :3].mean()


def test_stretching_ends_at_0_and_1_and_a_flat_channel_is_black():
    values = stretch_contrast(np.arange(10_000).reshape(100, 100))
    assert (values.min(), values.max()) == (0, 1)
    assert stretch_contrast(np.full((4, 4), 9)).max() == 0


def test_stains_have_their_colours_and_brightfield_none():
    blue, none, green, free = composite_colours(["DNA", "Brightfield", "ER_488", "marker"])
    assert none is None
    assert np.argmax(blue) == 2
    assert np.argmax(green) == 1
    assert free is not None
    channels = np.zeros((2, 2, 2))
    channels[0, 0, 0] = 1
    channels[1] = 1
    picture = composite(channels, ["DNA", "Brightfield"])
    assert np.argmax(picture[0, 0]) == 2
    assert picture[1, 1].max() == 0


@pytest.fixture
def folder(screen, tmp_path):
    build("rxrx3", screen(size=40), tmp_path / "set", wells_per_shard=3, validation_fraction=0.3, progress=False)
    return tmp_path / "set"


def test_a_well_is_described_and_drawn(folder, tmp_path, capsys):
    shards = ShardSet.open(folder)
    row, image = shards.wells.iloc[7], shards.read_well(7)
    assert main([str(folder), row["key"], "--out", str(tmp_path / "well.png")]) == 0
    printed = capsys.readouterr().out
    assert "8 train wells of 2 experiments, 4 validation wells of 1 experiments" in printed
    assert f'"key": "{row["key"]}"' in printed
    assert "40 x 40, 0.0" in printed
    table = printed.partition("saturated")[2].splitlines()[1:7]
    assert [line.split()[0] for line in table] == list(shards.manifest.channels)
    (head,) = (line.split() for line in printed.splitlines() if line.startswith("channel "))
    rows = [dict(zip(head, line.split(), strict=True)) for line in table]
    assert [row["min"] for row in rows] == [str(channel.min()) for channel in image]
    assert [row["max"] for row in rows] == [str(channel.max()) for channel in image]
    assert [row["p50"] for row in rows] == [f"{np.percentile(channel, 50):.0f}" for channel in image]
    assert [float(line.split()[1]) for line in table] == [round(float(channel.mean()), 1) for channel in image]
    with Image.open(tmp_path / "well.png") as picture:
        assert picture.format == "PNG"
        assert min(picture.size) > 300


@pytest.mark.parametrize(
    "arguments", [["{folder}", "nosuchwell"], ["{folder}/nowhere"], ["{folder}", "--out", "{folder}/no/such/x.png"]]
)
def test_errors_are_one_line(folder, arguments, capsys):
    assert main([argument.format(folder=folder) for argument in arguments]) == 1
    error = capsys.readouterr().err
    assert error.startswith("shards.inspect: ")
    assert error.count("\n") == 1


STAINS = "channels=ch1=Brightfield,ch2=ER,ch3=AGP,ch4=Mito,ch5=DNA,ch6=RNA"


@pytest.mark.slow
def test_real_cells_through_importer_builder_verify_and_inspect(real_data, tmp_path, capsys):
    """One field of Cell Painting: 16-bit, its mitochondria saturated in one pixel of 2,000."""
    import tifffile

    options = dict([STAINS.split("=", 1)])
    build("jump", real_data / "cellpainting", tmp_path / "set", options=options, validation_fraction=0, progress=False)
    assert verify([str(tmp_path / "set"), "--all"]) == 0
    assert main([str(tmp_path / "set"), "--out", str(tmp_path / "well.png")]) == 0
    table = capsys.readouterr().out.partition("saturated")[2].splitlines()[1:7]
    files = sorted((real_data / "cellpainting").rglob("*-ch*.tiff"))
    for line, name, path in zip(table, ["Brightfield", "ER", "AGP", "Mito", "DNA", "RNA"], files, strict=True):
        pixels = tifffile.imread(path)
        fields = line.split()
        assert fields[0] == name
        assert [float(fields[1]), float(fields[2]), int(fields[3]), int(fields[8])] == [
            round(float(pixels.mean()), 1), round(float(pixels.std()), 1), pixels.min(), pixels.max(),
        ]  # fmt: skip
    assert table[3].split()[-1] == "0.055%"


@pytest.mark.parametrize("shape", [(2, 1, 5000), (2, 5000, 1), (1, 3, 3), (1, 700, 40)])
def test_an_image_of_any_proportions_is_drawn(tmp_path, shape):
    folder = write_set(tmp_path / "set", [np.arange(np.prod(shape), dtype=np.uint16).reshape(shape)])
    assert main([str(folder), "--out", str(tmp_path / "well.png")]) == 0
    with Image.open(tmp_path / "well.png") as picture:
        assert max(picture.size) < 5000
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_picture_goes_to_a_regular_file(folder, tmp_path, capsys):
    os.mkfifo(tmp_path / "fifo")
    assert main([str(folder), "--out", str(tmp_path / "fifo")]) == 1
    assert f"{tmp_path / 'fifo'} is not a regular file" in capsys.readouterr().err
    assert not (tmp_path / "fifo").is_file()
