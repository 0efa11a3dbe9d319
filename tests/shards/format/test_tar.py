"""Tar files: every change is detected, and malicious ones only fail."""

import io
import tarfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from shard_files import flip_bit, flips, members_of, noisy, outcome, write_set

from shards.errors import ShardError
from shards.format.codecs import CODECS
from shards.format.payload import decode_payload, encode_payload
from shards.format.rebuild import rebuild
from shards.format.writer import ShardWriter
from shards.reader.shard_set import ShardSet


@pytest.mark.slow
@pytest.mark.parametrize("codec", list(CODECS))
def test_every_flipped_byte_of_a_tar_file_is_noticed_or_harmless(tmp_path, codec):
    """By the reader, which uses the sidecar; by the metadata; and by reading the tar file itself."""
    image = noisy((1, 20, 36), "uint16")
    folder = write_set(tmp_path / "set", [image], codec)
    path = folder / "train-000000.tar"
    content = path.read_bytes()
    shards = ShardSet.open(folder)
    noticed = 0
    for at, bit in flips(len(content)):
        restore = flip_bit(path, at, bit)
        for read, expected in ((shards.read_well, image), (shards.metadata, {"note": "ä", "number": 0})):
            found = outcome(lambda read=read: read(0))
            noticed += isinstance(found, ShardError)
            assert str(path) in str(found) if isinstance(found, ShardError) else np.array_equal(found, expected)
        restore()
        changed = bytearray(content)
        changed[at] ^= bit
        try:
            found = {m.key + m.kind: bytes(changed[m.offset : m.offset + m.size]) for m in members_of(bytes(changed))}
            assert np.array_equal(decode_payload(found["well0zs"]), image)
        except ShardError:
            noticed += 1
        except KeyError:  # the member's name itself changed: a member is missed by its name
            noticed += 1
    payload = len(encode_payload(image, CODECS[codec], 16)[0])
    assert noticed > payload  # all of the payload, by one or the other, is under a checksum
    assert np.array_equal(shards.read_well(0), image)


@given(cut=st.floats(0, 1, exclude_max=True))
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
def test_a_tar_file_cut_anywhere_is_refused(tmp_path_factory, cut):
    file = io.BytesIO()
    writer = ShardWriter(file, "zstd", 16)
    for number in range(2):
        writer.add(f"well{number}", noisy((1, 30, 30), "uint8"), {})
    writer.close()
    short = file.getvalue()[: int(cut * (len(file.getvalue()) - 1024))]  # the end mark is two blocks; one suffices
    with pytest.raises(ShardError, match=r"cut short at byte|no metadata"):
        rebuild(lambda start, stop: short[start:stop], len(short))


def archive(*infos: tarfile.TarInfo, content: bytes = b"") -> bytes:
    return b"".join(info.tobuf(tarfile.GNU_FORMAT) + content for info in infos) + bytes(1024)


def info(name: str, size: int = 0, kind: bytes = tarfile.REGTYPE) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.size, made.type, made.linkname = size, kind, "/etc/passwd" if kind == tarfile.SYMTYPE else ""
    return made


@pytest.mark.parametrize(
    ("tar", "message"),
    [
        (archive(info("/etc/passwd.zs")), "member '/etc/passwd.zs' is not a file"),
        (archive(info("../../up.zs")), "member '../../up.zs' is not a file"),
        (archive(info("a.zs", kind=tarfile.SYMTYPE)), "is not a file <key>.zs"),
        (archive(info("a.zs", kind=tarfile.CHRTYPE)), "is not a file <key>.zs"),
        (archive(info("././@LongLink", 1 << 40, tarfile.GNUTYPE_LONGNAME)), "is not a file <key>.zs"),
        (archive(info("paxheader.json", 1 << 33, tarfile.XHDTYPE)), "is not a file <key>.zs"),
        (archive(info("a.zs", 1 << 60)), "cut short at byte 1536: a.zs ends at"),
        (b"\xff" * 2048, "not a tar header"),
        (archive(info("a.zs"), info("b.json")), "are not an image and its metadata"),
        (archive(info("a.zs"), info("a.json")), "a: not a payload of this format"),
    ],
)
def test_hostile_tar_files_do_nothing_but_fail(tar, message):
    asked = []

    def read(start: int, stop: int) -> bytes:
        asked.append(stop - start)
        return tar[start:stop]

    with pytest.raises(ShardError, match=message):
        rebuild(read, len(tar))
    assert max(asked) <= 512
