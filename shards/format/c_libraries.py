"""Look up C functions in libraries that come with other packages' wheels, so that no compiler is needed.

zstd and LZ4 come with imagecodecs, CRC-32C with google-crc32c (which Zarr uses too); the rest is in libc.
"""

from __future__ import annotations

import ctypes
import importlib
from functools import lru_cache
from typing import Any

ZSTD, LZ4, CRC = "imagecodecs._zstd", "imagecodecs._lz4", "google_crc32c._crc32c"


def function(name: str, module: str | None) -> Any:  # noqa: ANN401 - what ctypes gives
    """A function of the library that a module is or links to; of libc for None. ImportError names an absent one."""
    try:
        return getattr(_library(module), name)
    except (OSError, AttributeError):
        package = "libc" if module is None else module.partition(".")[0]
        raise ImportError(f"{package} has no {name}: reinstall it from its wheel (pip install {package})") from None


@lru_cache
def _library(module: str | None) -> ctypes.CDLL:
    return ctypes.CDLL(None if module is None else importlib.import_module(module).__file__)
