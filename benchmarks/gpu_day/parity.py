"""Whether the fast paths compute what the plain ones do: attention, optimisers, compiled code, and the GPU itself.

Shapes: B batch, H heads, L tokens, D head width.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.gpu_day.day import Day, Found, Row
from benchmarks.peers import BETAS, LEARNING_RATE, WEIGHT_DECAY, compile_model
from benchmarks.timing import timed
from benchmarks.train_step import MINIATURE
from harness.distributed.optimiser import build_optimiser
from harness.models.config import MaeConfig, named_config
from harness.models.layers.attention import attention_kernel, installed_flash_packages
from harness.models.layers.masking import masking_noise
from harness.models.mae import MaskedAutoencoder

BACKENDS = (
    SDPBackend.MATH, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.CUDNN_ATTENTION,
)  # fmt: skip
PLACES = {"encoder": (16, 257, 64), "decoder": (16, 1025, 32), "decoder, wide heads": (8, 1025, 64)}  # (H, L, D) of L/8
TWICE = 2.0  # times the rounding of plain attention in the same type: the tests of FlashAttention allow as much
ROUNDING = {torch.float32: 1e-5, torch.bfloat16: 1e-2}  # relative, of what is summed in another order
STEPS, LOSS_STEPS, LOSS_GOAL = 5, 20, 1e-4


def attention(day: Day, earlier: dict[str, Found]) -> Found:
    """Each kernel's output and gradients against plain attention in float32, and its time."""
    rows = list[Row]()
    for place, (heads, tokens, width) in PLACES.items():
        torch.manual_seed(0)
        shape = (2, 2, 65, width) if day.small else (32, heads, tokens, width)
        exact = [torch.randn(shape, device=day.device) for _ in range(4)]  # query, key, value, gradient
        with sdpa_kernel(SDPBackend.MATH):
            expected = _attend(exact)
        inputs = [tensor.to(day.dtype) for tensor in exact]
        with sdpa_kernel(SDPBackend.MATH):
            limit = max(TWICE * _apart(_attend(inputs), expected), ROUNDING[torch.float32])
        for name, kernel in _kernels(day):
            rows += _attention_rows(f"attention {name}, {place}", kernel, inputs, expected, limit, day)
    return Found(rows)


def _kernels(day: Day) -> Iterator[tuple[str, Callable[[], contextlib.AbstractContextManager[object]]]]:
    for backend in BACKENDS:
        yield backend.name, lambda backend=backend: sdpa_kernel(backend)  # type: ignore[misc]
    for package in installed_flash_packages()[:1]:
        yield package, lambda: attention_kernel("flash", day.device, day.dtype)


def _attention_rows(
    name: str, kernel: Callable[[], contextlib.AbstractContextManager[object]], inputs: list[Tensor],
    expected: list[Tensor], limit: float, day: Day,
) -> list[Row]:  # fmt: skip
    try:
        with kernel():
            apart = _apart(_attend(inputs), expected)
            seconds = timed(lambda: _attend(inputs), day.device, day.seconds / 6)
    except RuntimeError:  # torch has no such kernel for this device, type or shape, and warns why
        return [Row(f"{name}: not available", "relative difference", None)]
    return [
        Row(name, "relative difference", apart, goal=limit, peer_name="plain attention, fp32", met=apart <= limit),
        Row(name, "ms forward and backward", 1000 * seconds),
    ]


def _attend(inputs: list[Tensor]) -> list[Tensor]:
    """The output and the gradients of query, key and value, each (B, H, L, D)."""
    *leaves, gradient = (tensor.detach().requires_grad_(number < 3) for number, tensor in enumerate(inputs))
    output = F.scaled_dot_product_attention(*leaves)
    return [output.detach(), *torch.autograd.grad(output, leaves, gradient)]


def _apart(found: list[Tensor], expected: list[Tensor]) -> float:
    """The largest difference of any tensor, relative to its largest value."""
    pairs = zip(found, expected, strict=True)
    return max(float((a.double() - b.double()).abs().max() / b.double().abs().max().clamp(min=1e-30)) for a, b in pairs)


def optimisers(day: Day, earlier: dict[str, Found]) -> Found:
    """Our multi-tensor and torch's fused optimisers against one tensor at a time: weights after some steps."""
    from lion_pytorch import Lion

    betas, rate, decay = BETAS, LEARNING_RATE, WEIGHT_DECAY

    def ours(name: str) -> Callable[[nn.Module], torch.optim.Optimizer]:
        return lambda m: build_optimiser(m, name, peak=rate, betas=betas, weight_decay=decay)  # type: ignore[arg-type]

    def adamw(fused: bool) -> Callable[[nn.Module], torch.optim.Optimizer]:
        kind = {"fused": True} if fused else {"foreach": False}
        return lambda m: torch.optim.AdamW(m.parameters(), lr=rate, betas=betas, weight_decay=decay, **kind)

    def lion(module: nn.Module) -> torch.optim.Optimizer:
        groups = [
            {"params": [p for p in module.parameters() if p.ndim > 1], "weight_decay": decay},
            {"params": [p for p in module.parameters() if p.ndim < 2], "weight_decay": 0.0},
        ]
        return Lion(groups, lr=rate, betas=betas)  # type: ignore[no-any-return]

    pairs = [("Lion, multi-tensor", ours("lion"), lion), ("AdamW, fused", adamw(True), adamw(False))]
    return Found([row for name, fast, plain in pairs for row in _optimiser_rows(name, fast, plain, day)])


def _optimiser_rows(
    name: str, fast: Callable[[nn.Module], torch.optim.Optimizer], plain: Callable[[nn.Module], torch.optim.Optimizer],
    day: Day,
) -> list[Row]:  # fmt: skip
    weights, times = list[list[Tensor]](), list[float]()
    for make in (fast, plain):
        torch.manual_seed(0)
        width, depth = (32, 2) if day.small else (1024, 24)
        layers = [nn.Linear(width, 4 * width, device=day.device) for _ in range(depth)]
        module = nn.Sequential(*layers)
        optimiser = make(module)
        for _ in range(STEPS):
            for p in module.parameters():
                p.grad = torch.randn_like(p)
            optimiser.step()
        weights.append([p.detach().clone() for p in module.parameters()])
        times.append(timed(optimiser.step, day.device, day.seconds / 6))
    apart, goal = _apart(*weights), ROUNDING[torch.float32]
    name, peer, (ours, theirs) = f"optimiser {name}", "tensor by tensor", times
    return [
        Row(name, "relative difference", apart, None, peer, None, goal, apart <= goal),
        Row(name, "ms a step", 1000 * ours, 1000 * theirs, peer, theirs / ours),
    ]


def compiled(way: str) -> Callable[[Day, dict[str, Found]], Found]:
    """The loss and the gradients of our model, compiled in this way, against those of the same model in eager mode."""

    def work(day: Day, earlier: dict[str, Found]) -> Found:
        eager = _model(small_config(day), day.device)
        other = copy.deepcopy(eager)
        compile_model(other, way)
        with torch.autocast(day.device.type, torch.bfloat16, enabled=day.bf16):
            plain, fast = (_gradients(model, day.device) for model in (eager, other))
        goal = ROUNDING[day.dtype]
        apart = {"loss": _apart([fast.loss], [plain.loss]), "gradient": _norm_apart(fast.gradient, plain.gradient)}
        return Found([
            Row(f"compiled {way}, {name}", "relative difference", value, None, "eager mode", None, goal, value <= goal)
            for name, value in apart.items()
        ])  # fmt: skip

    return work


def small_config(day: Day) -> MaeConfig:
    """A network with all parts of S/16 that compiles and trains quickly."""
    if day.small:
        return MINIATURE["miniature"]
    return replace(named_config("S/16"), depth=4, crop=128, decoder_depth=2)


def _model(config: MaeConfig, device: torch.device) -> MaskedAutoencoder:
    torch.manual_seed(0)
    return MaskedAutoencoder(config).train().to(device)


def _batch(config: MaeConfig, step: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Crops (B, C, S, S) and noise (B, `noise_values`), the same on every device."""
    random = torch.Generator().manual_seed(step)
    crops = torch.randn(8, config.channels, config.crop, config.crop, generator=random)
    return crops.to(device), masking_noise(0, range(8 * step, 8 * step + 8), config.noise_values).to(device)


class _Backward(NamedTuple):
    loss: Tensor
    gradient: list[Tensor]


def _gradients(model: MaskedAutoencoder, device: torch.device) -> _Backward:
    loss = model(*_batch(model.config, 0, device)).loss
    loss.backward()
    return _Backward(loss.detach().clone(), [p.grad.clone() for p in model.parameters() if p.grad is not None])


def _norm_apart(found: list[Tensor], expected: list[Tensor]) -> float:
    """The norm of the difference of two gradients, relative to the second's."""
    difference = sum(float((a - b).double().square().sum()) for a, b in zip(found, expected, strict=True))
    return float((difference / sum(float(b.double().square().sum()) for b in expected)) ** 0.5)


def losses(day: Day, earlier: dict[str, Found]) -> Found:
    """The losses of 20 steps in float32 on this device against those on the CPU, from the same weights."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    here, there = (_train(small_config(day), device) for device in (day.device, torch.device("cpu")))
    apart = max(abs(a - b) / abs(b) for a, b in zip(here, there, strict=True))
    name = f"fp32 loss over {LOSS_STEPS} steps"
    return Found([Row(name, "largest relative difference", apart, None, "CPU", None, LOSS_GOAL, apart <= LOSS_GOAL)])


def _train(config: MaeConfig, device: torch.device) -> list[float]:
    model = _model(config, torch.device("cpu")).to(device)  # weights are drawn on the CPU
    optimiser = build_optimiser(model, "adamw", peak=1e-3, betas=BETAS, weight_decay=WEIGHT_DECAY)
    history = []
    for step in range(LOSS_STEPS):
        loss = model(*_batch(config, step, device)).loss
        loss.backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        history.append(loss.item())
    return history
