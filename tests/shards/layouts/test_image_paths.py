"""Paths as other machines wrote them."""

import pytest

from shards.errors import LayoutError
from shards.layouts.image_paths import Replacement, joined


@pytest.mark.parametrize(
    ("folder", "file", "path"),
    [
        ("images/B1", "a.tif", "images/B1/a.tif"),
        ("images/B1/", "a.tif", "images/B1/a.tif"),
        ("/", "a.tif", "/a.tif"),
        ("", "a.tif", "a.tif"),
        ("images", "", ""),
        ("D:\\screens\\B1\\", "a.tif", "D:\\screens\\B1\\a.tif"),
        ("images\\B1", "a.tif", "images\\B1\\a.tif"),
        ("file:/home/plate%201", "a%20b.tif", "/home/plate 1/a%20b.tif"),
    ],
)
def test_a_file_in_its_folder(folder, file, path):
    assert joined(folder, file) == path


@pytest.mark.parametrize(
    ("option", "path", "location"),
    [
        (None, "images/a.tif", "images/a.tif"),
        (None, "images\\B1\\a.tif", "images/B1/a.tif"),
        (None, "s3://bucket/a%20b.tif", "s3://bucket/a%20b.tif"),
        (None, "file:///data/plate%201/a.tif", "/data/plate 1/a.tif"),
        (None, "file:/data/plate%201/a.tif", "/data/plate 1/a.tif"),
        (None, "file://localhost/data/plate%201/a.tif", "/data/plate 1/a.tif"),
        ("/their/disk=s3://bucket", "/their/disk/a.tif", "s3://bucket/a.tif"),
        ("/their/disk/=/data", "/their/disk/a.tif", "/data/a.tif"),
        ("/their=/data", "/other/a.tif", "/other/a.tif"),
        ("/their disk=/data", "file:///their%20disk/a%25.tif", "/data/a%.tif"),
        ("file:///their%20disk=/data", "/their disk/a.tif", "/data/a.tif"),
        ("D:\\screens=/data", "D:\\screens\\B1\\a.tif", "/data/B1/a.tif"),
        ("D:\\screens=/data", "D:\\\\screens\\\\B1\\\\a.tif", "/data/B1/a.tif"),
        ("D:\\\\screens\\\\=/data/", "D:\\screens\\a.tif", "/data/a.tif"),
        ("d:/Screens/=/data", "D:\\screens\\B1\\a.tif", "/data/B1/a.tif"),
        ("D:\\screens=s3://bucket", "file:///D:/screens/B%201/a.tif", "s3://bucket/B 1/a.tif"),
        ("\\\\server\\share=/data", "\\\\server\\share\\B1\\a.tif", "/data/B1/a.tif"),
    ],
)
def test_where_a_path_is_now(option, path, location):
    assert Replacement.of(option).location(path, "t.csv, line 2") == location


@pytest.mark.parametrize("path", ["D:\\screens\\a.tif", "c:/screens/a.tif", "\\\\server\\share\\a.tif"])
@pytest.mark.parametrize("option", [None, "E:\\=/data"])
def test_a_windows_path_whose_beginning_is_not_replaced_is_refused(option, path):
    with pytest.raises(LayoutError, match=r"^t.csv, line 2: .* is a path of a Windows machine: .* replace=.+=/data$"):
        Replacement.of(option).location(path, "t.csv, line 2")
