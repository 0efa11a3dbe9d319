"""The one door to timm. It opens also where torchvision was built for CUDA and torch was not.

torchvision's wheel from PyPI carries CUDA operators, which a CPU build of torch cannot load. `import torchvision`
(hence `import timm`) then dies registering shape rules for `nms`, an operator nobody here calls.
"""

import functools
import importlib
import sys
from types import ModuleType

_MISSING_OPERATOR = "operator torchvision::nms does not exist"
_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)


def import_timm() -> ModuleType:
    """Import timm, curing torchvision first where it needs that.

    Raises:
        ImportError, RuntimeError: whatever importing torchvision or timm raises, except the one error cured here.
    """
    _import_torchvision()
    return importlib.import_module("timm")


def _import_torchvision() -> None:
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if str(error) != _MISSING_OPERATOR:
            raise
        _forget_half_imported()
        _operator_schemas()
        importlib.import_module("torchvision")


def _forget_half_imported() -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]


@functools.cache  # the cache keeps the library alive: torch withdraws the operators of a collected one
def _operator_schemas() -> object:
    import torch

    library = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
    for schema in _SCHEMAS:
        library.define(schema)  # type: ignore[no-untyped-call]
    return library
