"""Which attention kernel runs: torch's own choice, or FlashAttention alone. A matter of speed, never of science.

timm's blocks call `scaled_dot_product_attention`, and torch chooses a kernel for each call. Here the choice is said,
narrowed where a recipe asks for it, and taken back afterwards. FlashAttention 4 and 3 are packages that torch can
put in the place of its own kernel; version 2 is what torch itself carries.
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

Attention = Literal["auto", "sdpa", "flash"]


@dataclass(frozen=True)
class FlashPackage:
    """A FlashAttention that torch can activate: its name there, the module that must import, the GPUs it is for."""

    name: str
    module: str
    capabilities: tuple[int, ...]  # major compute capability: 9 Hopper, 10 Blackwell


FLASH_PACKAGES = (
    FlashPackage("FA4", "flash_attn.cute.interface", (9, 10)),
    FlashPackage("FA3", "flash_attn_interface", (9,)),
)


class AttentionError(RuntimeError):
    """The attention that a recipe asks for is not to be had here; the text says what is missing."""


@contextmanager
def attention_kernel(wanted: Attention, device: torch.device, dtype: torch.dtype) -> Iterator[str]:
    """Run what is inside with the wanted attention, and give the name of what was chosen.

    `sdpa` leaves every choice to torch. `flash` allows FlashAttention alone: 4 or 3 where its package imports and fits
    the GPU, else the version 2 in torch. `auto` takes 4 or 3 where it could, and otherwise leaves the choice to torch.

    Raises:
        AttentionError: `flash` without a CUDA device, in float32, or with a torch that was built without it.
    """
    package = None if wanted == "sdpa" else _package_for(device, dtype)
    if wanted == "flash" and package is None:
        _require_flash(device, dtype)
    before = current_flash_attention_impl()
    if package is not None:
        activate_flash_attention_impl(package.name)
    try:
        if wanted == "flash":
            with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
                yield package.name if package else "FA2 (torch's own)"
        else:
            yield package.name if package else "sdpa"
    finally:
        if package is not None and before != package.name:
            restore_flash_attention_impl()


def installed_flash_packages() -> list[str]:
    """Names of the FlashAttention packages that are installed, newest first."""
    return [package.name for package in FLASH_PACKAGES if _is_installed(package.module)]


def describe_choice(config: MaeConfig, device: torch.device, dtype: torch.dtype) -> str:
    """The kernel that torch chooses for each attention of a training step, as "encoder 65 × 64 FLASH_ATTENTION, ...":
    tokens × width of a head. Lengths are odd because of the class token; every fused kernel takes them."""
    shapes = {
        "encoder": (config.visible_tokens, config.heads, config.width // config.heads),
        "decoder": (config.tokens, config.decoder_heads, config.decoder_width // config.decoder_heads),
    }
    return ", ".join(
        f"{part} {tokens} × {width} {_choice(tokens, heads, width, device, dtype)}"
        for part, (tokens, heads, width) in shapes.items()
    )


def _choice(tokens: int, heads: int, width: int, device: torch.device, dtype: torch.dtype) -> str:
    query = torch.empty(1, heads, tokens, width, device=device, dtype=dtype, requires_grad=True)
    return SDPBackend(torch._fused_sdp_choice(query, query, query)).name


def _package_for(device: torch.device, dtype: torch.dtype) -> FlashPackage | None:
    if device.type != "cuda" or dtype not in (torch.bfloat16, torch.float16):
        return None
    major = torch.cuda.get_device_capability(device)[0]
    return next((p for p in FLASH_PACKAGES if major in p.capabilities and _is_installed(p.module)), None)


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # a parent package is missing
        return False


def _require_flash(device: torch.device, dtype: torch.dtype) -> None:
    asked = "launch.attention is flash, but"
    if device.type != "cuda":
        raise AttentionError(f"{asked} this run is on {device.type}: FlashAttention needs a CUDA GPU; use auto or sdpa")
    if dtype not in (torch.bfloat16, torch.float16):
        raise AttentionError(f"{asked} it has no {dtype} kernel: set train.precision to bf16, or use auto or sdpa")
    if not torch.backends.cuda.is_flash_attention_available():
        raise AttentionError(f"{asked} this torch was built without it and neither FA4 nor FA3 is installed")
