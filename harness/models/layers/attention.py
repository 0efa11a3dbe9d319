"""Select the attention kernel: torch's default, FlashAttention, or another by name. This affects speed only and is not
part of a cell's id.

timm's blocks call `scaled_dot_product_attention`, and torch chooses a kernel for each call. This module reports the
choice, restricts it if the recipe asks for that, and restores the previous state afterwards. FlashAttention 4 and 3 are
packages that torch can use instead of its own kernel; version 2 is built into torch.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch.nn.attention import (
    SDPBackend,
    activate_flash_attention_impl,
    current_flash_attention_impl,
    restore_flash_attention_impl,
    sdpa_kernel,
)

from harness.models.config import MaeConfig

Attention = Literal["auto", "sdpa", "flash", "cudnn", "efficient", "math"]
BACKENDS: dict[Attention, SDPBackend] = {
    "flash": SDPBackend.FLASH_ATTENTION, "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION, "math": SDPBackend.MATH,
}  # fmt: skip
HALVES = (torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class FlashPackage:
    """A FlashAttention package that torch can activate: torch's name, the module to import, and the supported GPUs."""

    name: str
    module: str
    capabilities: tuple[int, ...]  # major compute capability: 9 Hopper, 10 Blackwell


FLASH_PACKAGES = (
    FlashPackage("FA4", "flash_attn.cute.interface", (9, 10)),
    FlashPackage("FA3", "flash_attn_interface", (9,)),
)


class AttentionError(RuntimeError):
    """The attention kernel that the recipe asks for is not available; the message says what is missing."""


@contextmanager
def attention_kernel(attention: Attention, device: torch.device, dtype: torch.dtype) -> Iterator[str]:
    """Run the body of the `with` statement with the requested attention, and yield the name of the kernel.

    `sdpa` leaves every choice to torch. `flash` allows only FlashAttention: 4 or 3 if its package is installed and
    supports the GPU, else torch's built-in version 2. `cudnn`, `efficient` (memory-efficient) and `math` (not fused)
    allow only that one of torch's kernels. `auto` uses 4 or 3 if possible, and else leaves the choice to torch.

    Raises:
        AttentionError: a fused kernel by name without a CUDA device, in a type that it lacks, or with a torch build
            that lacks it.
    """
    package = _package_for(device, dtype) if attention in ("auto", "flash") else None
    if package is None:
        _require(attention, device, dtype)
    previous = current_flash_attention_impl()
    if package is not None:
        activate_flash_attention_impl(package.name)
    try:
        if attention in BACKENDS:
            with sdpa_kernel(BACKENDS[attention]):
                yield package.name if package else "FA2 (torch's own)" if attention == "flash" else attention
        else:
            yield package.name if package else "sdpa"
    finally:
        if package is not None and previous != package.name:
            restore_flash_attention_impl()


def installed_flash_packages() -> list[str]:
    """List the names of the installed FlashAttention packages, newest first."""
    return [package.name for package in FLASH_PACKAGES if _is_installed(package.module)]


def describe_choice(config: MaeConfig, device: torch.device, dtype: torch.dtype) -> str:
    """Describe the kernel that torch chooses for each attention of a step: "encoder 65 × 64 FLASH_ATTENTION, ...",
    tokens × head width. The class token makes the lengths odd; every fused kernel supports that.

    Raises:
        AttentionError: the kernel that alone is allowed does not support these sizes.
    """
    attentions = {
        "encoder": (config.visible_tokens, config.heads, config.width // config.heads),
        "decoder": (config.tokens, config.decoder_heads, config.decoder_width // config.decoder_heads),
    }
    return ", ".join(
        f"{part} {tokens} × {width} {_choice(tokens, heads, width, device, dtype)}"
        for part, (tokens, heads, width) in attentions.items()
    )


def _choice(tokens: int, heads: int, width: int, device: torch.device, dtype: torch.dtype) -> str:
    query = torch.empty(1, heads, tokens, width, device=device, dtype=dtype, requires_grad=True)
    choice = SDPBackend(torch._fused_sdp_choice(query, query, query))
    if choice == SDPBackend.ERROR:
        raise AttentionError(
            f"the kernel that launch.attention names does not support {heads} heads of width {width} in {dtype} on "
            "this GPU: use auto or sdpa"
        )
    return choice.name


def _package_for(device: torch.device, dtype: torch.dtype) -> FlashPackage | None:
    if device.type != "cuda" or dtype not in HALVES:
        return None
    major = torch.cuda.get_device_capability(device)[0]
    return next((p for p in FLASH_PACKAGES if major in p.capabilities and _is_installed(p.module)), None)


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # a parent package is missing
        return False


def _require(attention: Attention, device: torch.device, dtype: torch.dtype) -> None:
    """Refuse a fused kernel that is asked for by name and cannot run."""
    if attention in ("auto", "sdpa", "math"):
        return
    rule = f"launch.attention is {attention}, but"
    if device.type != "cuda":
        raise AttentionError(f"{rule} this run is on {device.type}: it needs a CUDA GPU; use auto or sdpa")
    if attention != "efficient" and dtype not in HALVES:
        raise AttentionError(f"{rule} it has no {dtype} kernel: set train.precision to bf16, or use auto or sdpa")
    if attention == "flash" and not torch.backends.cuda.is_flash_attention_available():
        raise AttentionError(f"{rule} this torch was built without it and neither FA4 nor FA3 is installed")
    if attention == "cudnn" and not torch.backends.cudnn.is_available():  # type: ignore[no-untyped-call]
        raise AttentionError(f"{rule} this torch was built without cuDNN: use auto or sdpa")
