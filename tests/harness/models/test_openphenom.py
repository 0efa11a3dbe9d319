"""Covers `openphenom`: published weights embed as the published code did, and a file says which formula it follows."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from published_inference import published_embedding
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from harness.models.channel_agnostic import ChannelAgnosticMae
from harness.models.channel_agnostic_config import ChannelAgnosticConfig
from harness.models.encoder_file import EncoderFileError
from harness.models.openphenom import OPENPHENOM, load_openphenom, save_openphenom
from harness.recipe.models import BlockBias

TINY = ChannelAgnosticConfig(
    width=16, depth=3, heads=2, patch=8, crop=32, channels=3, decoder_width=16, decoder_depth=1, decoder_heads=2,
    layer_scale=0.5,
)  # fmt: skip
ENDINGS = ["m.safetensors", "m.pt"]


def trained(block_bias: BlockBias) -> ChannelAgnosticMae:
    """A float64 model whose every parameter is random, biases too."""
    torch.manual_seed(1)
    model = ChannelAgnosticMae(replace(TINY, block_bias=block_bias)).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


def published_file(path: Path) -> dict[str, Tensor]:
    """A file as the published ones are: OpenPhenom's names, and nothing else."""
    weights = {
        name.replace("in_proj.shifted_bias", "mlp_bias"): v for name, v in trained("timm-0.8.13").state_dict().items()
    }
    if path.suffix == ".pt":
        torch.save({"state_dict": weights}, path)
    else:
        save_file({name: value.contiguous() for name, value in weights.items()}, path)
    return weights


def images(channels: int = 5) -> Tensor:
    return torch.randn(2, channels, 32, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("name", ENDINGS)
@torch.no_grad()
def test_a_published_file_embeds_as_the_published_code_did(tmp_path: Path, name: str) -> None:
    """Whatever formula the caller's configuration has: the weights decide."""
    weights = published_file(tmp_path / name)
    expected = published_embedding(images(), weights, heads=2)
    model = load_openphenom(tmp_path / name, TINY)
    assert model.config.block_bias == "timm-0.8.13"
    torch.testing.assert_close(model.embed(images()), expected, atol=1e-10, rtol=0)
    current = load_openphenom(tmp_path / name, TINY, block_bias="mlp")
    assert (current.embed(images()) - expected).abs().max() > 0.01


@pytest.mark.parametrize("name", ENDINGS)
@torch.no_grad()
def test_an_exported_model_of_the_published_formula_embeds_the_same_in_the_published_code(
    tmp_path: Path, name: str
) -> None:
    model = trained("timm-0.8.13")
    save_openphenom(tmp_path / name, model)
    content = torch.load(tmp_path / name, weights_only=True) if name == "m.pt" else None
    if content is None:
        with safe_open(tmp_path / name, "pt") as file:
            weights, notes = {key: file.get_tensor(key) for key in file.keys()}, file.metadata()  # noqa: SIM118
    else:
        weights, notes = content["state_dict"], content
    torch.testing.assert_close(
        published_embedding(images(), weights, heads=2), model.embed(images()), atol=1e-10, rtol=0
    )
    assert (notes["block_bias"], notes["needs"]) == ("timm-0.8.13", "timm>=0.8.13,<=1.0.24")


@pytest.mark.parametrize("name", ENDINGS)
@pytest.mark.parametrize("block_bias", ["mlp", "timm-0.8.13"])
@torch.no_grad()
def test_every_exported_model_loads_with_its_own_formula(tmp_path: Path, name: str, block_bias: BlockBias) -> None:
    """Also where the caller's configuration has the other one."""
    model = trained(block_bias)
    save_openphenom(tmp_path / name, model)
    for config in (TINY, replace(TINY, block_bias="timm-0.8.13")):
        again = load_openphenom(tmp_path / name, config)
        assert again.config.block_bias == block_bias
        torch.testing.assert_close(again.embed(images()), model.embed(images()), atol=1e-12, rtol=0)
    other = {"mlp": "timm-0.8.13", "timm-0.8.13": "mlp"}[block_bias]
    with pytest.raises(EncoderFileError, match=f"has block_bias {block_bias!r}, not {other!r}"):
        load_openphenom(tmp_path / name, TINY, block_bias=other)  # type: ignore[arg-type]


def test_an_older_export_that_states_no_formula_is_refused_until_it_is_named(tmp_path: Path) -> None:
    path, model = tmp_path / "m.safetensors", trained("mlp")
    state = {name: value.contiguous() for name, value in model.state_dict().items()}
    save_file(state, path, {"cell": "net-one-s0", "recipe": "tiny"})
    with pytest.raises(EncoderFileError, match="exported before `block_bias` was written: pass block_bias='mlp'"):
        load_openphenom(path, TINY)
    again = load_openphenom(path, TINY, block_bias="mlp")
    torch.testing.assert_close(again.embed(images()), model.embed(images()), atol=1e-12, rtol=0)


def test_pipes_are_refused_and_not_read(tmp_path: Path) -> None:
    for name in ENDINGS:
        os.mkfifo(tmp_path / name)
        with pytest.raises(EncoderFileError, match=f"{name}: not a regular file"):
            load_openphenom(tmp_path / name, TINY)


def test_an_unknown_formula_is_refused(tmp_path: Path) -> None:
    torch.save({"state_dict": trained("mlp").state_dict(), "block_bias": ["mlp"]}, tmp_path / "m.pt")
    with pytest.raises(EncoderFileError, match=r"block_bias \['mlp'\] is not one of"):
        load_openphenom(tmp_path / "m.pt", TINY)


@pytest.mark.slow
@torch.no_grad()
def test_a_model_of_openphenoms_size_embeds_as_the_published_code_did(tmp_path: Path) -> None:
    """S/16 on six channels of 256 pixels, with biases of 0.05."""
    torch.manual_seed(1)
    model = ChannelAgnosticMae(OPENPHENOM).double().eval()
    for name, parameter in model.named_parameters():
        if "bias" in name or name.endswith("gamma"):
            parameter.add_(torch.randn_like(parameter) * 0.05)
    save_openphenom(tmp_path / "m.pt", model)
    weights = torch.load(tmp_path / "m.pt", weights_only=True)["state_dict"]
    crops = torch.randn(1, 6, 256, 256, dtype=torch.float64)
    torch.testing.assert_close(model.embed(crops), published_embedding(crops, weights, heads=6), atol=1e-10, rtol=0)
