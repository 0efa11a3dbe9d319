"""Import timm, of a version that computes what this project expects, also if torchvision was built for CUDA and torch
was not.

torchvision's wheel from PyPI has CUDA operators, which a CPU build of torch cannot load. `import torchvision` (and so
`import timm`) then fails while it registers shape rules for `nms`, an operator that this package does not use.

In timm 0.8.13 to 1.0.24 `ParallelScalingBlock` without QKV bias added its bias to other values than from 1.0.25 on
(issue 2653). The same weights mean two functions, so older versions are refused.
"""

import functools
import importlib
import re
import sys
from types import ModuleType

OLDEST_TIMM = (1, 0, 25)
_MISSING_OPERATOR = "operator torchvision::nms does not exist"
_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)


def import_timm() -> ModuleType:
    """Import timm, with a workaround for torchvision if needed.

    Raises:
        ImportError: timm is older than `OLDEST_TIMM`.
        ImportError, RuntimeError: errors of importing torchvision or timm, except the one that is worked around.
    """
    _import_torchvision()
    timm = importlib.import_module("timm")
    _require_version(timm.__version__)
    return timm


def _require_version(version: str) -> None:
    numbers = tuple(int(number) for number in re.findall(r"\d+", version)[:3])
    if numbers < OLDEST_TIMM:
        raise ImportError(
            f"timm {version} computes parallel blocks by another formula (timm issue 2653): "
            f"install timm>={'.'.join(map(str, OLDEST_TIMM))}"
        )


def _import_torchvision() -> None:
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if str(error) != _MISSING_OPERATOR:
            raise
        _remove_partial_import()
        _define_operators()
        importlib.import_module("torchvision")


def _remove_partial_import() -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]


@functools.cache  # keeps the library alive: torch removes its operators when it is garbage-collected
def _define_operators() -> object:
    import torch

    library = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
    for schema in _SCHEMAS:
        library.define(schema)  # type: ignore[no-untyped-call]
    return library
