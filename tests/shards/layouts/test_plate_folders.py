"""Which folder is the plate: never `Images`, an identifier, or anything else that says no plate."""

import pytest

from shards.errors import LayoutError
from shards.layouts.plate_folders import plate_folders

ONE, OTHER = "8b9bbbbe-2ec2-44a2-9cfb-3ce2a7ddc0a7", "abf52e44-0000-44a2-9cfb-3ce2a7ddc0a7"


@pytest.mark.parametrize(
    ("folder", "place"),
    [
        ("B1/images/BR01__2021-01-01T00_00_00-Measurement1/Images", ("B1", "BR01", "")),
        ("B1/images/BR01__2021-01-01T00_00_00-Measurement 1/Images", ("B1", "BR01", "")),
        ("B1/images/BR01__2021-01-01T00_00_00-Measurement 1b/images", ("B1", "BR01", "")),
        ("B1/images/BR01__2021-01-01T00_00_00-Measurement 1/Images/tiff", ("B1", "BR01", "")),
        ("BR01__2021-01-01T00_00_00-Measurement1/any", ("BR01", "BR01", "")),
        ("BR01__t-Measurement1", ("BR01__t-Measurement1",) * 3),
        ("x/BR01__2021-01-01T00_00_00-Measurement1/Images", ("BR01", "BR01", "")),
        ("B1/images/plateA/Images", ("B1", "plateA", "plateA")),
        ("plateA/Images", ("plateA",) * 3),
        ("plateA/images", ("plateA",) * 3),
        ("plateA/Image", ("plateA",) * 3),
        ("plateA/Images/tiff", ("plateA",) * 3),
        ("plateA", ("plateA",) * 3),
        ("any/AMG900", ("AMG900",) * 3),
        (f"plateA/hs/{ONE}/images", ("plateA",) * 3),
        (f"B1/images/plateA/hs/{ONE}/images", ("B1", "plateA", "plateA")),
        (f"hs/{ONE}/images", ("screen",) * 3),
        ("Images", ("screen",) * 3),
        ("", ("screen",) * 3),
    ],
)
def test_the_plate_is_the_nearest_folder_that_can_be_a_name(tmp_path, folder, place):
    root = tmp_path / "screen"
    path = f"{root}/{folder}".rstrip("/")
    assert plate_folders(str(root), [path]) == {path: place}


def test_measurements_of_one_archive_are_told_apart(tmp_path):
    folders = [f"{tmp_path}/A/hs/{name}/images" for name in (ONE, OTHER)]
    assert [place.plate for place in plate_folders(str(tmp_path), folders).values()] == [ONE, OTHER]


def test_names_of_a_link_count_and_not_those_of_its_target(tmp_path):
    """Only the root itself is resolved, such as `.`"""
    (tmp_path / "2020_Batch" / "images").mkdir(parents=True)
    (tmp_path / "current").symlink_to("2020_Batch")
    folder = f"{tmp_path}/current/images/BR01__t-Measurement1/Images"
    assert plate_folders(f"{tmp_path}/current", [folder])[folder].experiment == "2020_Batch"
    assert plate_folders("s3://bucket/", ["s3://bucket/a/Images"])["s3://bucket/a/Images"].plate == "a"


def test_a_folder_without_any_name_is_refused():
    with pytest.raises(LayoutError, match="/Images: no folder above can be the name of a plate"):
        plate_folders("/", ["/Images"])
