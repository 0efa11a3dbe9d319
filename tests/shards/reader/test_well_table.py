"""The table of wells may be written by anybody: it is read as it is, or refused by its column, in bounded memory."""

import hashlib
import io
import resource
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from shard_files import Recorded, check_right_or_refused, noisy, reseal_manifest, write_set

from shards.errors import ShardError
from shards.format.source import LocalFolder
from shards.reader import well_table
from shards.reader.shard_set import ShardSet
from shards.verify import verify

IMAGES = [noisy((1, 20, 36), "uint8", seed) for seed in range(3)]


@pytest.fixture
def folder(tmp_path) -> Path:
    return write_set(tmp_path / "set", IMAGES)


def replace_table(folder: Path, content: bytes) -> None:
    """Put another table under a matching manifest."""
    (folder / "wells.parquet").write_bytes(content)
    reseal_manifest(folder, lambda manifest: manifest.update(wells_sha256=hashlib.sha256(content).hexdigest()))


def packed(table: pa.Table, **options) -> bytes:
    file = io.BytesIO()
    parquet.write_table(table, file, **options)
    return file.getvalue()


def put(table: pa.Table, name: str, values: object) -> pa.Table:
    column = values if isinstance(values, pa.Array) else pa.array(values)
    return table.set_column(table.column_names.index(name), name, column)


HOSTILE = {
    "no column": (lambda t: t.drop_columns(["experiment", "height"]), "no column experiment, height"),
    "one twice": (lambda t: t.append_column("height", t["height"]), "wells.parquet: "),
    "text as number": (lambda t: put(t, "height", ["20", "20", "20"]), "column height holds string, not integers"),
    "real number": (lambda t: put(t, "width", [36.0, 36.0, 36.0]), "column width holds double, not integers"),
    "number as text": (lambda t: put(t, "experiment", [1, 2, 3]), "column experiment holds int64, not text"),
    "bytes": (lambda t: put(t, "key", [b"\xff", b"b", b"c"]), "column key holds binary, not text"),
    "list": (lambda t: put(t, "experiment", [["e"], ["e"], ["e"]]), r"column experiment holds list.*, not text"),
    "nested": (lambda t: t.append_column("x", pa.array([[1], [2], [3]])), r"column x holds list.*, not text"),
    "null": (lambda t: put(t, "experiment", ["e", None, "e"]), "column experiment lacks 1 values"),
    "null side": (lambda t: put(t, "height", [20, None, 20]), "column height lacks 1 values"),
    "negative": (lambda t: put(t, "height", [20, -20, 20]), r"height and width: an image of -20 x 36 pixels"),
    "zero": (lambda t: put(t, "width", [0, 0, 0]), r"height and width: an image of 20 x 0 pixels"),
    "huge": (lambda t: put(t, "height", [2**62, 2**62, 2**62]), r"an image of 4611686018427387904 x 36 pixels"),
    "wraps": (lambda t: put(t, "height", pa.array([2**64 - 1] * 3, pa.uint64())), "cannot be read: ArrowInvalid"),
    "large": (lambda t: put(put(t, "height", [2**20] * 3), "width", [2**20] * 3), "an image of 1048576 x 1048576"),
    "fewer rows": (lambda t: t.slice(1), "2 rows, but manifest.json states 3 wells"),
    "no rows": (lambda t: t.slice(3), "0 rows, but manifest.json states 3 wells"),
    "not UTF-8": (
        lambda t: put(t, "experiment", pa.Array.from_buffers(
            pa.string(), 3, [None, pa.py_buffer(np.array([0, 1, 2, 3], np.int32)), pa.py_buffer(b"\xff\xfe\xfd")]
        )),
        "wells.parquet: ",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", list(HOSTILE))
def test_a_hostile_table_is_refused_by_its_column(folder, name):
    change, message = HOSTILE[name]
    replace_table(folder, packed(change(parquet.read_table(folder / "wells.parquet"))))
    with pytest.raises(ShardError, match=rf"{folder}/wells.parquet: .*{message.removeprefix('wells.parquet: ')}"):
        ShardSet.open(folder)
    assert f"{folder}/wells.parquet" in {fault.path for fault in verify(LocalFolder(folder), 0).faults}


def test_other_shapes_than_the_images_have_are_refused_when_the_shard_is_opened(folder):
    """A grid of 2 x 3 chunks read as 3 x 2 would give other pixels."""
    table = parquet.read_table(folder / "wells.parquet")
    replace_table(folder, packed(put(put(table, "height", [36, 20, 20]), "width", [20, 36, 36])))
    shards = ShardSet.open(folder)
    with pytest.raises(ShardError, match=r"train-000000.tar: its images do not have the heights in wells.parquet"):
        shards.read_well(0)
    assert np.array_equal(shards.read_well(2), IMAGES[2])


@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1PAR1", b"\0" * 100, b"PAR1" + b"\xff" * 100 + b"PAR1"])
def test_what_is_not_parquet_is_refused(folder, content):
    replace_table(folder, content)
    with pytest.raises(ShardError, match=rf"{folder}/wells.parquet: cannot be read"):
        ShardSet.open(folder)


def test_one_long_text_that_all_rows_name_is_refused_before_it_is_expanded(tmp_path):
    """2,000 rows of 2 MB of text, in a file of kilobytes: 4 GB if expanded."""
    images = [noisy((1, 1, 1), "uint8")] * 2000
    folder = write_set(tmp_path / "set", images, per=2000)
    table = parquet.read_table(folder / "wells.parquet")
    long = pa.DictionaryArray.from_arrays(pa.array([0] * 2000, pa.int32()), pa.array(["x" * (2 << 20)]))
    replace_table(folder, packed(table.append_column("note", long), store_schema=False, compression="zstd"))
    assert (folder / "wells.parquet").stat().st_size < 100_000
    shards = ShardSet.open(folder)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ShardError, match=r"wells.parquet: column note: its text is longer than 65536 bytes per row"):
        _ = shards.wells
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KiB


@pytest.mark.slow
def test_every_flipped_byte_of_a_table_under_a_matching_checksum_is_right_or_refused(folder):
    """What a faulty writer would leave: Arrow has to find it, or it changes names or shapes, which are compared."""
    content = (folder / "wells.parquet").read_bytes()
    random = np.random.default_rng(3)
    for at in random.choice(len(content), min(600, len(content)), replace=False):
        changed = bytearray(content)
        changed[at] ^= 1 << int(random.integers(8))
        replace_table(folder, bytes(changed))
        check_right_or_refused(folder, IMAGES)


def test_the_table_is_read_by_groups_as_pandas_reads_it(folder):
    table = parquet.read_table(folder / "wells.parquet").append_column("site", pa.array([1, 2, None]))
    table = put(table, "height", pa.array([20, 20, 20], pa.uint16())).append_column("plate", pa.array(["a", None, "a"]))
    replace_table(folder, packed(table, row_group_size=2))
    shards = ShardSet.open(folder)
    pd.testing.assert_frame_equal(shards.wells, pd.read_parquet(folder / "wells.parquet"))
    assert shards.shapes.tolist() == [[20, 36]] * 3
    assert [shards.table.keys_of(number) for number in range(2)] == [["well0", "well1"], ["well2"]]
    (folder / "wells.parquet").write_bytes(b"another")
    with pytest.raises(ShardError, match=r"not the table that manifest.json describes"):
        shards.table.frame()


@pytest.fixture
def many(tmp_path) -> ShardSet:
    """Ten wells in four row groups, with numbers, missing text and text that recurs."""
    folder = write_set(tmp_path / "many", [IMAGES[0]] * 10)
    table = parquet.read_table(folder / "wells.parquet").append_column("site", pa.array([1, None, *range(8)]))
    table = table.append_column("plate", pa.array(["a", None, "a", "b", "", "a", "b", "b", None, "c"]))
    replace_table(folder, packed(table, row_group_size=3))
    return ShardSet.open(Recorded(folder))


@pytest.mark.parametrize("wells", [[], [4], [9, 0, 4, 0], [*range(10)]], ids=["none", "one", "some", "all"])
def test_rows_that_are_asked_for_are_those_of_the_table(many, wells):
    rows = many.rows(np.array(wells, np.int64))
    pd.testing.assert_frame_equal(rows, many.wells.loc[wells], check_dtype=len(wells) == 10, check_index_type=False)
    assert many.rows(np.array(wells, np.int64), ["plate"]).columns.tolist() == ["plate"]
    assert many.table.columns == many.wells.columns.tolist()
    pd.testing.assert_frame_equal(many.table.frame(["plate"]), many.wells[["plate"]])


@pytest.mark.parametrize(("wells", "groups"), [([4, 3], [1]), ([0, 9], [0, 3]), ([], [0])], ids=["one", "two", "none"])
def test_only_the_row_groups_of_the_rows_are_read(many, wells, groups):
    footer = parquet.read_metadata(many.source.place / "wells.parquet")
    many.source.read.clear()
    many.rows(np.array(wells, np.int64), ["key"])
    sizes = [
        sum(footer.row_group(g).column(c).total_compressed_size for c in range(footer.num_columns)) for g in groups
    ]
    assert [name for name, _, _ in many.source.read] == ["wells.parquet"] * len(groups)
    assert [end - begin for _, begin, end in many.source.read] == sizes


def test_rows_of_a_table_that_changed_are_refused(many):
    path = many.source.place / "wells.parquet"
    content = bytearray(path.read_bytes())
    content[10] ^= 1  # in the first row group
    path.write_bytes(content)
    assert many.rows(np.array([9]), ["key"])["key"].tolist() == ["well9"]
    with pytest.raises(ShardError, match=r"wells.parquet: not the table that manifest.json describes"):
        many.rows(np.array([9, 0]), ["key"])
    path.write_bytes(b"short")
    with pytest.raises(ShardError, match=r"wells.parquet: ends at byte"):
        many.rows(np.array([9]), ["key"])


@pytest.mark.parametrize("wells", [[10], [-1, 3]])
def test_a_row_that_no_well_has_is_an_error(many, wells):
    with pytest.raises(ValueError, match=r"is not one of 10 wells"):
        many.rows(np.array(wells))


def test_row_groups_in_another_order_are_read_with_all_others(many, monkeypatch):
    """A reader may find any offsets: what does not follow one another is not cut into pieces."""
    real = well_table._begin
    monkeypatch.setattr(well_table, "_begin", lambda column: 10**9 - real(column))
    backwards = ShardSet.open(many.source)
    monkeypatch.undo()
    many.source.read.clear()
    rows = backwards.rows(np.array([8, 1]))
    pd.testing.assert_frame_equal(rows, many.wells.loc[[8, 1]], check_dtype=False, check_index_type=False)
    size = (many.source.place / "wells.parquet").stat().st_size
    assert many.source.read[0] == ("wells.parquet", 0, size)
