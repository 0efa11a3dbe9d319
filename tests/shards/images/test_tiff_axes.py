"""What the planes of a TIFF file are: by its pages and by metadata, which may be of other files, damaged or untrue."""

import io
import struct
from types import SimpleNamespace

import numpy as np
import pytest
import tifffile
from tiff_files import entry, ome, pages, written

from shards.errors import ImageError
from shards.images.headers import MAX_WELL_BYTES
from shards.images.tiff import decode_tiff
from shards.images.tiff_axes import axes_of_pages

VALUES = np.arange(96 * 80, dtype=np.uint16).reshape(96, 80)
STACK = np.stack([VALUES, VALUES[::-1], VALUES // 3])


@pytest.mark.parametrize("options", [{"imagej": True}, {"ome": True}, {}])
@pytest.mark.parametrize(
    ("axes", "shape", "message"),
    [
        (
            "CYX",
            (3,),
            "holds 3 planes of several channels by its metadata, not a z-stack; one channel per file is needed",
        ),
        ("ZCYX", (3, 2), "holds 6 planes of several channels"),
        ("TZYX", (3, 2), "holds 6 planes along the axes [TZ] and [TZ]; planes along one axis are needed"),
        ("TYX", (3,), "holds 3 time points, not a z-stack; choose one with --plane N$"),
    ],
)
def test_what_is_no_z_stack_is_not_projected(options, axes, shape, message):
    values = np.broadcast_to(VALUES, (*shape, *VALUES.shape))
    data = written(values, photometric="minisblack", metadata={"axes": axes}, **options)
    for plane in (None, "max", *([] if axes == "TYX" else [1])):
        with pytest.raises(ImageError, match=message):
            decode_tiff(data, MAX_WELL_BYTES, plane)
    if axes == "TYX":
        assert np.array_equal(decode_tiff(data, MAX_WELL_BYTES, 2).pixels, VALUES)


LIES = {
    "ImageJ": "ImageJ=1.53\nimages=10\nslices=10\n",
    "ImageJ, 2^31": "ImageJ=1.53\nimages=2147483648\nslices=2147483648\n",
    "shape": '{"shape": [10, 96, 80]}',
    "shape, 2^31": '{"shape": [2147483648, 96, 80], "axes": "ZYX"}',
    "no numbers": '{"shape": ["a", null]}',
    "old shape": "shape=(10, 96, 80)",
    "OME": ome('<TiffData IFD="0"/><TiffData IFD="1" FirstC="1"/>', SizeC=2),
    "OME, 2^31": ome("<TiffData/>", SizeZ=2**31),
    "OME, cut": ome("<TiffData/>", SizeC=2)[:200] + "OME>",
    "OME, other file": ome('<TiffData IFD="0"><UUID FileName="b.tif">urn:uuid:2</UUID></TiffData>', SizeC=5),
    "OME, stub": '<OME><BinaryOnly MetadataFile="b.companion.ome" UUID="urn:uuid:2"/></OME>',
}


@pytest.mark.timeout(20)
@pytest.mark.parametrize("lie", LIES)
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_metadata_that_speak_of_more_planes_do_not_change_a_file_of_one(lie, compression):
    data = written(VALUES, metadata=None, description=LIES[lie], compression=compression)
    assert np.array_equal(decode_tiff(data, MAX_WELL_BYTES).pixels, VALUES)
    assert np.array_equal(decode_tiff(data + bytes(50), MAX_WELL_BYTES).pixels, VALUES)


@pytest.mark.parametrize(
    ("blocks", "sizes", "message"),
    [
        ("<TiffData/>", {"SizeZ": 3}, "holds 3 z-planes"),
        ("", {"SizeZ": 9}, "holds 3 z-planes"),
        ("<TiffData/>", {"SizeT": 3}, "holds 3 time points, not"),
        ("<TiffData/>", {"SizeC": 3}, "several channels"),
        ("<TiffData/>", {"SizeC": 2, "SizeZ": 2}, "several channels"),
        ('<TiffData IFD="0" PlaneCount="3" FirstC="1"/>', {"SizeC": 2, "SizeZ": 3}, "several channels"),
        ("<TiffData/></Pixels><Pixels><TiffData IFD='2'/>", {"SizeZ": 2}, "holds 3 planes along the axes P and Z"),
        ("".join(f'<TiffData IFD="{k}" FirstC="1" FirstZ="{k}"/>' for k in range(3)), {"SizeC": 2, "SizeZ": 3}, "z-pl"),
        ("".join(f'<TiffData IFD="{k}" FirstC="1" FirstZ="{k}"><UUID>urn:uuid:1</UUID></TiffData>'
                 f'<TiffData IFD="{k}" FirstZ="{k}"><UUID FileName="b.tif">urn:uuid:2</UUID></TiffData>'
                 for k in range(3)), {"SizeC": 2, "SizeZ": 3}, "holds 3 z-planes"),
        ('<TiffData IFD="0"><UUID FileName="b.tif">urn:uuid:2</UUID></TiffData>', {"SizeC": 2}, "several channels"),
        ('<TiffData IFD="0"/><TiffData IFD="0" FirstC="1"/>', {"SizeC": 2}, "several channels"),
        ('<TiffData IFD="0"/>', {"SizeT": 2}, "holds 3 time points"),
        ('<TiffData IFD="-5" PlaneCount="9999999999"/>', {"SizeZ": 2**31}, "holds 3 z-planes"),
        ('<TiffData IFD="a"/>', {}, "holds 3 planes; choose"),
        ("<cut", {"SizeC": 2}, "several channels"),
    ],
)  # fmt: skip
@pytest.mark.timeout(20)
def test_what_the_planes_of_an_ome_file_are_is_read_for_its_own_pages(blocks, sizes, message):
    """Of a file of three pages: what its OME-XML says of them, or may mean where it is not of them."""
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as tif:
        for number in range(3):
            tif.write(VALUES, metadata=None, description=ome(blocks, **sizes) if number == 0 else None)
    with pytest.raises(ImageError, match=message):
        decode_tiff(file.getvalue(), MAX_WELL_BYTES)


@pytest.mark.parametrize(
    ("description", "message"),
    [
        ("ImageJ=1.53\nimages=3\nslices=3\n", "holds 3 z-planes"),
        ("ImageJ=1.53\nimages=3\n", "holds 3 planes; choose"),
        ("ImageJ=1.53\nimages=2\nslices=2\n", "holds 3 planes; choose"),  # fewer than there are
        ("ImageJ=1.53\nimages=20\nslices=10\nframes=2\n", "holds 3 z-planes"),  # the first of them
        ("ImageJ=1.53\nimages=20\nslices=10\nframes=2\norder=tcz\n", "along the axes T and Z"),
        ("ImageJ=1.53\nimages=20\nchannels=2\nslices=10\n", "several channels"),
        ("ImageJ=1.53\nimages=0\nslices=a\n", "holds 3 planes; choose"),
        ('{"shape": [3, 96, 80], "axes": "ZYX"}', "holds 3 z-planes"),
        ('{"shape": [3, 96, 80], "axes": "TZYX"}', "holds 3 planes; choose"),
        ('{"shape": [0, 96, 80], "axes": "CYX"}', "holds 3 planes; choose"),
        ('{"shape": ' + "[" * 100_000, "holds 3 planes; choose"),
        ("shape=(3, 96, 80)", "holds 3 planes; choose"),
        ('{"shape": [Infinity, 96, 80], "axes": "CYX"}', "holds 3 planes; choose"),
        ('{"shape": [3, 96, 80], "axes": "cyx"}', "several channels"),
    ],
)
def test_what_the_planes_are_by_other_descriptions(description, message):
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as tif:
        for number in range(3):
            tif.write(VALUES, metadata=None, description=description if number == 0 else None)
    with pytest.raises(ImageError, match=message):
        decode_tiff(file.getvalue(), MAX_WELL_BYTES)


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "content",
    [
        "<Pixels>" * 30_000 + '<TiffData IFD="5000"/>' + "</Pixels>" * 30_000,
        "<Pixels>" + '<TiffData IFD="5000"/>' * 50_000 + "</Pixels>",
        "<Pixels>" + "<TiffData>" * 30_000 + "</TiffData>" * 30_000 + "</Pixels>",
    ],
)
def test_elements_in_elements_take_no_more_time(content):
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as tif:
        for number in range(3):
            description = f"<OME><Image>{content}</Image></OME>" if number == 0 else None
            tif.write(VALUES, metadata=None, description=description)
    with pytest.raises(ImageError, match="holds 3 planes"):
        decode_tiff(file.getvalue(), MAX_WELL_BYTES)


def test_the_planes_of_a_metamorph_stack_are_counted_by_its_own_tag():
    """UIC1 and UIC2, which has six numbers for each plane; the planes lie behind the only page."""
    data = pages([STACK.astype("<u2").tobytes()], VALUES.shape, {258: 16, 262: 1, 279: VALUES.nbytes})
    at = data.index(entry(279, VALUES.nbytes)) + 12
    times = len(data) + 24
    count = struct.unpack_from("<H", data, at - 8 * 12 - 2)[0]
    head = bytearray(data[:at] + entry(33628, times, 0) + entry(33629, times, 3, kind=5) + bytes(4))
    struct.pack_into("<H", head, at - 8 * 12 - 2, count + 2)
    data = bytes(head).ljust(times, b"\0") + struct.pack("<18I", *[1, 1, 0, 0, 0, 0] * 3)
    for number, values in enumerate(STACK, start=1):
        assert np.array_equal(decode_tiff(data, MAX_WELL_BYTES, number).pixels, values)
    with pytest.raises(ImageError, match="holds 3 planes; choose one"):
        decode_tiff(data, MAX_WELL_BYTES)


@pytest.mark.parametrize(
    ("kind", "series", "axes"),
    [
        ("lsm", SimpleNamespace(axes="TZYX", shape=(2, 3, 96, 80)), "ZT"),
        ("lsm", SimpleNamespace(axes="ZCYX", shape=(6, 1, 96, 80)), "Z"),
        ("fluoview", SimpleNamespace(axes="CYX", shape=(6, 96, 80)), "C"),
        ("lsm", None, "I"),
    ],
)
def test_the_planes_of_zeiss_and_olympus_files_are_as_tifffile_reads_their_tags(kind, series, axes):
    page = SimpleNamespace(description="", shaped_description=None, imagej_description=None, is_stk=False)
    known = {"is_lsm": False, "is_fluoview": False, f"is_{kind}": True, "series": [series] if series else []}
    assert axes_of_pages(SimpleNamespace(pages=SimpleNamespace(first=page), **known), range(6)) == axes
