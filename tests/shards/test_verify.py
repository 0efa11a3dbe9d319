"""Verify finds every fault and names its file; no set, however damaged or malicious, makes it fail in another way."""

import hashlib
import io
import json
import random
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shards.builder.build_set import build
from shards.errors import ShardError
from shards.format.manifest import Manifest, read_manifest, write_manifest
from shards.format.payload import decode_payload
from shards.format.rebuild import rebuild
from shards.format.source import LocalFolder
from shards.format.writer import ShardWriter
from shards.verify import Fault, main, verify


@pytest.fixture(scope="module")
def sound(write_screen, tmp_path_factory) -> Path:
    """8 training and 4 validation wells in 3 and 2 shards."""
    root = tmp_path_factory.mktemp("verify")
    build(
        "rxrx3", write_screen(root / "screen"), root / "set", wells_per_shard=3, validation_fraction=0.3, progress=False
    )
    return root / "set"


@pytest.fixture
def folder(sound, tmp_path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(sound, tmp_path / "set"))


def faults(folder: Path, sample: int | None = None) -> tuple[Fault, ...]:
    return verify(LocalFolder(folder), sample).faults


def manifest_of(folder: Path) -> Manifest:
    return read_manifest(LocalFolder(folder))


def reseal(folder: Path, **changes: object) -> None:
    """Make the manifest match the files as they are now, as a forger or a faulty builder would."""
    manifest = manifest_of(folder)
    shards = []
    for shard in manifest.shards:
        data = (folder / shard.name).read_bytes()
        reported = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        shards.append(shard.model_copy(update=reported))
        try:
            rebuilt = rebuild(lambda begin, end, data=data: data[begin:end], len(data))
            (folder / shard.index).write_bytes(rebuilt.index.pack())
        except ShardError:
            (folder / shard.index).unlink(missing_ok=True)
    table = hashlib.sha256((folder / "wells.parquet").read_bytes()).hexdigest()
    update = {"shards": tuple(shards), "wells_sha256": table, **changes}
    write_manifest(folder, manifest.model_copy(update=update))


def rewrite(path: Path, change: Callable[[str, bytes], tuple[str, bytes]]) -> None:
    """Write an archive again with its members changed."""
    with tarfile.open(path) as archive:
        files = [(member.name, archive.extractfile(member).read()) for member in archive]
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
        for name, content in files:
            name, content = change(name, content)
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def test_a_sound_set_has_no_faults_and_reports_what_was_checked(sound, capsys):
    assert main([str(sound), "--all"]) == 0
    out = capsys.readouterr().out
    assert "sound: 5 shards, 12 wells" in out
    assert "12 wells decoded" in out
    assert "2 train and 1 validation experiments, 0 in both" in out
    assert main([str(sound), "--sample", "5", "--json"]) == 0
    reported = json.loads(capsys.readouterr().out)
    assert (reported["sound"], reported["decoded"], reported["wells"], reported["faults"]) == (True, 5, 12, [])
    assert reported["split"] == {"train": 2, "validation": 1, "shared": []}


FILES = ["train-000000.tar", "validation-000001.tar", "train-000002.idx", "wells.parquet", "manifest.json"]


@pytest.mark.slow
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(FILES), where=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255))
def test_every_flipped_byte_is_found_in_its_file_or_harmless(sound, folder, name, where, flip):
    path, original = folder / name, (sound / name).read_bytes()
    data = bytearray(original)
    data[int(where * len(data))] ^= flip
    path.write_bytes(data)
    try:
        reported = faults(folder, sample=0)
        if name == "manifest.json" and not reported:
            assert manifest_of(folder) == manifest_of(sound)  # white space
        else:
            assert {fault.path for fault in reported} == {str(path)}
    finally:
        path.write_bytes(original)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(FILES), where=st.floats(0, 1, exclude_max=True))
def test_every_file_cut_short_is_named(sound, folder, name, where):
    path, original = folder / name, (sound / name).read_bytes()
    path.write_bytes(original[: int(where * len(original.rstrip()))])
    try:
        assert str(path) in {fault.path for fault in faults(folder, sample=0)}
    finally:
        path.write_bytes(original)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    reported = faults(folder)
    assert {fault.path for fault in reported} == {str(folder / name)}
    assert "missing" in reported[0].what or "no manifest" in reported[0].what


def test_an_archive_that_the_manifest_does_not_list_is_named(folder):
    shutil.copy(folder / "train-000000.tar", folder / "train-000009.tar")
    assert [(fault.path, fault.what[:22]) for fault in faults(folder)] == [
        (str(folder / "train-000009.tar"), "not a file of this set")
    ]


def test_damaged_pixels_under_a_matching_checksum_are_found_by_decoding(folder):
    path = folder / "train-000001.tar"
    with tarfile.open(path) as archive:
        member = archive.getmembers()[2]
    data = bytearray(path.read_bytes())
    data[member.offset_data + member.size // 2] ^= 4
    path.write_bytes(data)
    reseal(folder)
    assert faults(folder, sample=0) == ()
    (fault,) = faults(folder)
    assert fault.path == str(path)
    assert fault.what.startswith(f"{member.name.removesuffix('.zs')}: chunk 0 of 1: its checksum does not match")


def test_metadata_that_contradicts_the_table_is_found(folder):
    experiment = sorted(manifest_of(folder).experiments["validation"])[0]

    def move(name: str, content: bytes) -> tuple[str, bytes]:
        return name, content.replace(b'"gene-', b'"gone-') if name.endswith("json") else content

    rewrite(folder / "validation-000000.tar", move)
    reseal(folder)
    reported = faults(folder)
    assert {fault.path for fault in reported} == {str(folder / "validation-000000.tar")}
    assert all(f"but wells.parquet says {experiment!r}" in fault.what for fault in reported)


def test_wells_in_another_order_or_under_another_key_are_found(folder):
    rewrite(folder / "train-000000.tar", lambda name, content: (f"x{name}", content))
    reseal(folder)
    (fault,) = faults(folder)
    assert (fault.path, "its 3 images are not the 3 that wells.parquet lists" in fault.what) == (
        str(folder / "train-000000.tar"),
        True,
    )


def test_an_image_of_another_kind_is_found(folder):
    manifest = manifest_of(folder)
    table = pd.read_parquet(folder / "wells.parquet")
    shard = manifest.shards[0]
    rows = table[table["shard"] == shard.name].to_dict("records")
    with (folder / shard.name).open("wb") as file:
        writer = ShardWriter(file, manifest.codec, manifest.chunk)
        for row in rows:
            writer.add(row["key"], np.zeros((5, 16, 15), np.uint8), {"experiment": row["experiment"]})
        writer.close()
    reseal(folder)
    whats = {fault.what.partition(": ")[2] for fault in faults(folder)}
    assert whats == {
        "not of the channels, pixel type, chunk and codec of manifest.json",
        "16 x 15 pixels, but wells.parquet says 16 x 16",
    }


def test_an_experiment_in_both_splits_is_found_though_all_else_matches(folder):
    table = pd.read_parquet(folder / "wells.parquet")
    manifest = manifest_of(folder)
    leaked = manifest.experiments["train"][0]
    first = table.index[table["split"] == "validation"][0]
    table.loc[first, "experiment"] = leaked
    table.to_parquet(folder / "wells.parquet", index=False)
    key = table.loc[first, "key"]

    def leak(name: str, content: bytes) -> tuple[str, bytes]:
        if name == f"{key}.json":
            content = json.dumps({**json.loads(content), "experiment": leaked}).encode()
        return name, content

    rewrite(folder / table.loc[first, "shard"], leak)
    sides = {**manifest.experiments, "validation": (*manifest.experiments["validation"], leaked)}
    reseal(folder, experiments=sides)
    (fault,) = faults(folder)
    assert fault == Fault(str(folder / "wells.parquet"), f"experiments in both training and validation: {leaked}")


@pytest.mark.parametrize("change", ["count", "order", "twice", "columns"])
def test_a_table_that_does_not_match_the_manifest_is_named(folder, change):
    table = pd.read_parquet(folder / "wells.parquet")
    table = {
        "count": lambda: table.iloc[:-1],
        "order": lambda: table.iloc[::-1],
        "twice": lambda: table.assign(key=[table["key"].iloc[0], *table["key"].iloc[:-1]]),
        "columns": lambda: table.drop(columns=["key", "split"]),
    }[change]()
    table.to_parquet(folder / "wells.parquet", index=False)
    reseal(folder)
    assert str(folder / "wells.parquet") in {fault.path for fault in faults(folder)}


def test_an_index_of_another_archive_is_named(folder):
    shutil.copy(folder / "train-000001.idx", folder / "train-000000.idx")
    (fault,) = faults(folder)
    assert fault == Fault(str(folder / "train-000000.idx"), "the index of another archive")


def hostile(kind: str) -> bytes:
    """An archive that would harm a reader that trusts it."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        member = tarfile.TarInfo("key.zs")
        if kind == "absolute":
            member.name = "/tmp/key.zs"
        elif kind == "parent":
            member.name = "../../key.zs"
        elif kind == "link":
            member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
        elif kind == "device":
            member.type = tarfile.CHRTYPE
        elif kind == "long name":
            member.name = "k" * 5_000_000 + ".zs"
        elif kind == "sparse":
            member.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.realsize": str(2**50)}
        archive.addfile(member)
    data = bytearray(out.getvalue())
    if kind == "huge":  # a header that claims 2**60 bytes, in tar's binary form, with a matching checksum
        data[124:136] = b"\x80" + (2**60).to_bytes(11, "big")
        data[148:156] = b" " * 8
        data[148:156] = b"%06o\0 " % sum(data[:512])
    if kind == "noise":
        data = bytearray(random.Random(0).randbytes(20_000))
    return bytes(data)


@pytest.mark.parametrize(
    "kind", ["absolute", "parent", "link", "device", "long name", "sparse", "huge", "noise", "empty"]
)
def test_a_hostile_archive_only_fails_clearly(folder, kind, tmp_path):
    path = folder / "train-000000.tar"
    path.write_bytes(hostile(kind) if kind != "empty" else bytes(1024))
    reseal(folder)
    before = sorted(tmp_path.rglob("*"))
    reported = faults(folder)
    assert str(path) in {fault.path for fault in reported}
    assert sorted(tmp_path.rglob("*")) == before
    assert all("\n" not in fault.what and len(fault.what) < 500 for fault in reported)


def test_a_payload_that_would_swell_is_refused(folder):
    """A header that claims 2**20 pixels squared: refused before anything is allocated."""
    path = folder / "train-000000.tar"

    def swell(name: str, content: bytes) -> tuple[str, bytes]:
        if not name.endswith("zs"):
            return name, content
        from dataclasses import replace

        from shards.format.payload import header_bytes, read_header

        header = read_header(content)
        return name, replace(header, height=2**20, width=2**20).pack() + content[header_bytes(content) :]

    rewrite(path, swell)
    reseal(folder)
    assert "out of bounds" in next(fault.what for fault in faults(folder) if fault.path == str(path))
    with tarfile.open(path) as archive, pytest.raises(ShardError, match="out of bounds"):
        decode_payload(archive.extractfile(archive.getmembers()[0]).read())


def test_a_table_that_would_swell_is_refused_unread(folder):
    table = pd.read_parquet(folder / "wells.parquet")
    table["bomb"] = "x" * 10_000_000
    table.to_parquet(folder / "wells.parquet", index=False, compression="zstd", use_dictionary=False)
    assert (folder / "wells.parquet").stat().st_size < 10**6
    reseal(folder)
    (fault,) = [fault for fault in faults(folder) if fault.path.endswith("wells.parquet")]
    assert "12 rows of 1" in fault.what


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"null", b"{}", b"\xff\xfe", b'{"a":' * 100_000, b"[" * 100_000, b'{"version": 1}']
)
def test_a_manifest_of_any_content_is_one_line(folder, content, capsys):
    (folder / "manifest.json").write_bytes(content)
    assert main([str(folder)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith(f"{folder}/manifest.json: ")


@pytest.mark.parametrize("place", ["nothing", "a/file", "nosuchscheme://host/set"])
def test_a_place_that_is_no_set_is_named(tmp_path, place, capsys):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "file").write_text("x")
    place = place if "://" in place else str(tmp_path / place)
    assert main([place]) == 1
    assert place in capsys.readouterr().out


def test_wrong_options_are_refused(sound, capsys):
    for options in (["--sample", "-1"], ["--workers", "0"], ["--sample", "3", "--all"]):
        with pytest.raises(SystemExit):
            main([str(sound), *options])
    assert "--sample" in capsys.readouterr().err
