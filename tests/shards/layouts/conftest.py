"""A plain folder of images with two tables."""

from pathlib import Path

import numpy as np
import pytest
import tifffile


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a_DNA", "a_ER", "b_DNA", "b_ER"):
        tifffile.imwrite(tmp_path / f"{name}.tif", np.zeros((4, 4), np.uint8))
    rows = "e1,p1,A01,a_DNA.tif,a_ER.tif,10\ne2,p1,A01,b_DNA.tif,b_ER.tif,20\n"
    (tmp_path / "wells.csv").write_text(f"experiment,plate,well,channel:DNA,channel:ER,dose\n{rows}")
    (tmp_path / "named.csv").write_text("experiment,plate,well,file\ne1,p1,A01,a\ne2,p1,A01,b\n")
    return tmp_path
