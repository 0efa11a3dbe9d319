"""Covers `attention`: the kernel that a recipe asks for runs, is reported, and gives the same numbers."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from harness.models.config import named_config
from harness.models.layers import attention
from harness.models.layers.attention import AttentionError, attention_kernel, describe_choice, installed_flash_packages
from harness.models.layers.blocks import encoder_blocks

CPU = torch.device("cpu")


def block_and_tokens(tokens: int, head_width: int) -> tuple[torch.nn.Module, Tensor]:
    torch.manual_seed(0)
    block = encoder_blocks(2 * head_width, 1, 2, drop_path=0.0, layer_scale=1.0, qk_norm=True)[0]
    return block, torch.randn(3, tokens, 2 * head_width)


def output_and_gradient(block: torch.nn.Module, tokens: Tensor) -> tuple[Tensor, Tensor]:
    tokens = tokens.clone().requires_grad_()
    output = block(tokens)
    output.square().mean().backward()
    assert tokens.grad is not None
    return output.detach(), tokens.grad


@pytest.mark.parametrize("head_width", [32, 64])
@pytest.mark.parametrize("tokens", [65, 257])
def test_fused_attention_equals_plain_on_odd_lengths_with_qk_norm(tokens: int, head_width: int) -> None:
    """The class token makes lengths odd: 64 + 1 and 256 + 1 in the encoder. Kernels tile them; no token may be lost."""
    block, inputs = block_and_tokens(tokens, head_width)
    with sdpa_kernel(SDPBackend.MATH):
        plain = output_and_gradient(block, inputs)
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        fused = output_and_gradient(block, inputs)
    torch.testing.assert_close(fused, plain, rtol=1e-4, atol=1e-5)


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["FA4", "FA3", "FA2"])
@pytest.mark.parametrize("tokens", [65, 257])
def test_flash_attention_agrees_with_plain_attention(name: str, tokens: int) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    if name != "FA2" and name not in installed_flash_packages():
        pytest.skip(f"{name} is not installed")
    block, inputs = (part.cuda() for part in block_and_tokens(tokens, 64))
    with torch.autocast("cuda", torch.bfloat16):
        with sdpa_kernel(SDPBackend.MATH):
            plain = output_and_gradient(block, inputs)
        with attention_kernel("flash", torch.device("cuda", 0), torch.bfloat16) as kernel:
            flash = output_and_gradient(block, inputs)
    if not kernel.startswith(name):
        pytest.skip(f"{kernel} is newer and is used instead")
    torch.testing.assert_close(flash, plain, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("setting", ["auto", "sdpa"])
def test_without_a_gpu_torch_chooses_the_kernel(setting: str) -> None:
    with attention_kernel(setting, CPU, torch.float32) as kernel:
        assert kernel == "sdpa"


def test_a_kernel_by_name_is_the_only_one_that_runs() -> None:
    block, inputs = block_and_tokens(65, 32)
    expected = output_and_gradient(block, inputs)
    with attention_kernel("math", CPU, torch.float32) as kernel:
        assert kernel == "math"
        assert (
            describe_choice(named_config("L/8"), CPU, torch.float32) == "encoder 257 × 64 MATH, decoder 1025 × 32 MATH"
        )
        torch.testing.assert_close(output_and_gradient(block, inputs), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["cudnn", "efficient"])
def test_a_kernel_by_name_is_refused_where_it_cannot_run(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AttentionError, match=f"launch.attention is {name}, but this run is on cpu"):  # noqa: SIM117
        with attention_kernel(name, CPU, torch.bfloat16):
            pass
    attention._require("efficient", torch.device("cuda"), torch.float32)
    with pytest.raises(AttentionError, match=r"cudnn, but it has no torch\.float32 kernel"):
        attention._require("cudnn", torch.device("cuda"), torch.float32)
    monkeypatch.setattr(torch.backends.cudnn, "is_available", lambda: False)
    with pytest.raises(AttentionError, match="built without cuDNN"):
        attention._require("cudnn", torch.device("cuda"), torch.bfloat16)


def test_sizes_that_the_only_allowed_kernel_lacks_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "_fused_sdp_choice", lambda *_: SDPBackend.ERROR.value)
    with pytest.raises(AttentionError, match=r"16 heads of width 104 in torch\.bfloat16"):
        describe_choice(named_config("G/8"), CPU, torch.bfloat16)


def test_flash_where_it_cannot_run_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AttentionError, match=r"launch\.attention is flash, but this run is on cpu.*auto or sdpa"):  # noqa: SIM117
        with attention_kernel("flash", CPU, torch.bfloat16):
            pass
    with pytest.raises(AttentionError, match=r"no torch\.float32 kernel: set train\.precision to bf16"):
        attention._require("flash", torch.device("cuda"), torch.float32)
    monkeypatch.setattr(torch.backends.cuda, "is_flash_attention_available", lambda: False)
    with pytest.raises(AttentionError, match="built without it and neither FA4 nor FA3 is installed"):
        attention._require("flash", torch.device("cuda"), torch.bfloat16)


@pytest.mark.parametrize(
    ("installed", "major", "expected"),
    [
        ({"flash_attn.cute.interface", "flash_attn_interface"}, 9, "FA4"),
        ({"flash_attn_interface"}, 9, "FA3"),
        ({"flash_attn_interface"}, 8, None),  # version 3 supports only Hopper
        (set(), 9, None),
    ],
)
def test_the_newest_package_that_supports_the_gpu_is_used(
    monkeypatch: pytest.MonkeyPatch, installed: set[str], major: int, expected: str | None
) -> None:
    monkeypatch.setattr(attention, "_is_installed", installed.__contains__)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (major, 0))
    package = attention._package_for(torch.device("cuda", 0), torch.bfloat16)
    assert (package.name if package else None) == expected
    assert attention._package_for(torch.device("cuda", 0), torch.float32) is None


def test_a_package_is_activated_and_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    monkeypatch.setattr(attention, "_package_for", lambda device, dtype: attention.FLASH_PACKAGES[1])
    monkeypatch.setattr(attention, "activate_flash_attention_impl", calls.append)
    monkeypatch.setattr(attention, "restore_flash_attention_impl", lambda: calls.append("restored"))
    with attention_kernel("auto", torch.device("cuda"), torch.bfloat16) as kernel:
        assert (kernel, calls) == ("FA3", ["FA3"])
    assert calls == ["FA3", "restored"]


def test_the_kernel_is_reported_for_both_attentions_of_a_step() -> None:
    assert describe_choice(named_config("S/16"), CPU, torch.float32) == (
        "encoder 65 × 64 FLASH_ATTENTION, decoder 257 × 32 FLASH_ATTENTION"
    )
    with sdpa_kernel(SDPBackend.MATH):
        description = describe_choice(replace(named_config("S/16"), mask_ratio=0.5), CPU, torch.float32)
    assert description == "encoder 129 × 64 MATH, decoder 257 × 32 MATH"
