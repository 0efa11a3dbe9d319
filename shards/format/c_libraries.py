"""C functions of libraries that come inside other packages' wheels, by name: nothing here needs a compiler.

zstd and LZ4 are the ones that imagecodecs brings, CRC-32C is google-crc32c's (which Zarr uses too), the rest is libc's.
"""

from __future__ import annotations

import ctypes
import importlib
from functools import lru_cache
from typing import Any

ZSTD, LZ4, CRC = "imagecodecs._zstd", "imagecodecs._lz4", "google_crc32c._crc32c"


def function(name: str, module: str | None) -> Any:  # noqa: ANN401 - what ctypes gives
    """A function of the library that a module is, or links; of libc for None. ImportError names one that is absent."""
    try:
        return getattr(_library(module), name)
    except (OSError, AttributeError):
        place = "libc" if module is None else module.partition(".")[0]
        raise ImportError(f"{place} gives no {name}: reinstall it from its wheel (pip install {place})") from None


@lru_cache
def _library(module: str | None) -> ctypes.CDLL:
    return ctypes.CDLL(None if module is None else importlib.import_module(module).__file__)
