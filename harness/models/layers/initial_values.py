"""Build a network whose parameters have no memory, and make their initial values later, one parameter at a time.

A rank that keeps a part of each parameter need then never hold the whole model, on the host or on its device. The
values are bit for bit those of a network that was built whole: they follow from torch's global generator, and a
parameter's draws depend on how many numbers all parameters before it took. So the constructor runs once on parameters
of the meta device. Its random draws are made into scratch memory and dropped, which leaves the generator where it would
be, and each parameter's last draw is noted with the generator's state before it. `InitialValues.value` repeats it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.utils._python_dispatch import TorchDispatchMode

N = TypeVar("N", bound=nn.Module)
aten = torch.ops.aten
OVERWRITES = frozenset(
    {aten.uniform_.default, aten.normal_.default, aten.zero_.default, aten.fill_.Scalar, aten.copy_.default}
)
SMALL = 2**16  # numbers of a parameter that may begin with values of its own, such as a bias of zeros


CURE = "draw each parameter in its constructor, by operations in place (normal_, zero_, ...)"


@dataclass(frozen=True)
class Write:
    """An operation that writes into a parameter, or a view of it.

    Attributes:
        size, stride, offset: the view's place in the parameter's memory.
        rest, options: the arguments after the tensor.
        generator: the state of torch's generator before a random operation.
    """

    function: OpOverload[..., Any]
    size: torch.Size
    stride: tuple[int, ...]
    offset: int
    rest: tuple[Any, ...]
    options: dict[str, Any]
    generator: Tensor | None

    def into(self, memory: Tensor) -> None:
        """Repeat the operation on a parameter's memory, which is flat."""
        if self.generator is not None:
            torch.set_rng_state(self.generator)
        self.function(memory.as_strided(self.size, self.stride, self.offset), *self.rest, **self.options)


@dataclass
class Origin:
    """How a parameter gets its value: what it begins with, if that matters, and what is written into it."""

    shape: torch.Size
    dtype: torch.dtype
    begin: Tensor | None
    writes: list[Write] = field(default_factory=list)


class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes what is written into parameters of the meta device. Use through `deferred`."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.origins: dict[int, Origin] = {}  # by the address of the parameter's storage
        self._kept: list[nn.Parameter] = []  # a storage that is freed could give its address to another
        self._scratch = torch.empty(0)

    def register(self, module: nn.Module, name: str, parameter: nn.Parameter | None) -> nn.Parameter | None:
        """Replace a module's new parameter by one without memory. A hook of `nn.Module`."""
        if parameter is None or parameter.is_meta:
            return parameter
        begin = parameter.detach().clone() if parameter.numel() <= SMALL else None
        empty = nn.Parameter(torch.empty_like(parameter, device="meta"), parameter.requires_grad)
        self.origins[_address(empty)] = Origin(parameter.shape, parameter.dtype, begin)
        self._kept.append(empty)
        return empty

    def __torch_dispatch__(
        self, function: OpOverload[..., Any], types: object, args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> object:  # fmt: skip
        target, options = args[0] if args else None, kwargs or {}
        origin = self.origins.get(_address(target)) if isinstance(target, Tensor) and target.is_meta else None
        if origin is None or not function._schema.is_mutable:
            return function(*args, **options)
        assert isinstance(target, Tensor)
        if any(isinstance(value, Tensor) and value.is_meta for value in args[1:]):
            raise TypeError(f"{function} writes one parameter's value into another: {CURE}")
        is_whole = target.numel() == origin.shape.numel()
        if is_whole and function in OVERWRITES:
            origin.begin, origin.writes = None, []
        draws = torch.Tag.nondeterministic_seeded in function.tags
        place = target.size(), target.stride(), int(target.storage_offset())
        origin.writes.append(Write(function, *place, args[1:], options, torch.get_rng_state() if draws else None))
        if draws:
            function(self._scratch_like(target), *args[1:], **options)
        return target

    def _scratch_like(self, target: Tensor) -> Tensor:
        """Memory for a draw that is dropped: kept between draws, as freed memory of many sizes is not used again."""
        if self._scratch.numel() < target.numel() or self._scratch.dtype != target.dtype:
            self._scratch = torch.empty(target.numel(), dtype=target.dtype)
        return self._scratch[: target.numel()].view(target.size())


@dataclass(frozen=True)
class InitialValues:
    """The initial values of the parameters of a network that was built without them, by name."""

    origins: dict[str, Origin]

    def value(self, name: str) -> Tensor:
        """Make a parameter's whole initial value, on the CPU. Torch's generator is left as it was."""
        origin = self.origins[name]
        value = torch.empty(origin.shape, dtype=origin.dtype) if origin.begin is None else origin.begin.clone()
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            for write in origin.writes:
                write.into(value.view(-1))
        return value


def deferred(build: Callable[[], N]) -> tuple[N, InitialValues]:
    """Call `build` and return its network, with parameters on the meta device and real buffers, and their values.

    Raises:
        TypeError: a parameter's value depends on another's.
        ValueError: a large parameter is not drawn or set as a whole, so its value would have to be kept.
    """
    recorder = Recorder()
    with _registering(recorder), recorder:
        network = build()
    origins = {name: recorder.origins[_address(parameter)] for name, parameter in network.named_parameters()}
    for name, origin in origins.items():
        if origin.begin is None and not (origin.writes and origin.writes[0].function in OVERWRITES):
            raise ValueError(f"{name} has no initial value that can be made later: {CURE}")
    return network, InitialValues(origins)


@contextmanager
def _registering(recorder: Recorder) -> Iterator[None]:
    handle = register_module_parameter_registration_hook(recorder.register)  # type: ignore[arg-type]  # it may replace it
    try:
        yield
    finally:
        handle.remove()


def _address(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


@torch.no_grad()
def materialise(network: nn.Module, device: torch.device, values: InitialValues | None) -> None:
    """Give a network's parameters, or this rank's shards of them, memory on `device` and their initial values.

    At most one whole parameter is in memory at a time. Without `values` the network has them already.
    """
    if values is None:
        return
    buffers = dict(network.named_buffers())
    network.to_empty(device=device)
    for name, buffer in network.named_buffers():
        buffer.copy_(buffers[name])
    for name, parameter in network.named_parameters():
        own_part(parameter).copy_(_part_like(parameter, values.value(name)))


def own_part(parameter: Tensor) -> Tensor:
    """Return this rank's shard of a parameter, or all of one that is not sharded."""
    from torch.distributed.tensor import DTensor

    return parameter.to_local() if isinstance(parameter, DTensor) else parameter


def _part_like(parameter: Tensor, whole: Tensor) -> Tensor:
    """Cut from a whole value what this rank keeps of it. Nothing is communicated."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    if not isinstance(parameter, DTensor):
        return whole
    return distribute_tensor(whole, parameter.device_mesh, parameter.placements, src_data_rank=None).to_local()
