"""Covers `openphenom`: published weights embed as the published code did, and a file says which formula it follows."""

from __future__ import annotations

import os
import random
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


def odd_states() -> dict[str, tuple[object, str]]:
    """What a torch file may hold in place of a state_dict, and the refusal."""
    state = dict(trained("mlp").state_dict())
    name = "decoder_pred.bias"
    return {
        "whole numbers": (state | {name: state[name].long()}, f"{name} is torch.int64: weights must be floating point"),
        "complex numbers": (state | {name: state[name].to(torch.complex64)}, "weights must be floating point"),
        "another precision": (state | {name: state[name].half()}, f"{name} is torch.float16, "),
        "a sparse tensor": (state | {name: state[name].to_sparse()}, f"{name} is sparse, quantised or without values"),
        "a tensor without values": (state | {name: state[name].to("meta")}, f"{name} is sparse, quantised or without"),
        "a number for a name": (state | {7: state[name]}, "holds no state_dict"),
        "a text for a tensor": (state | {name: "x"}, "holds no state_dict"),
        "infinity": (state | {name: torch.full_like(state[name], torch.inf)}, f"{name} holds NaN or infinity"),
        "a list": ([state[name]], "holds no state_dict"),
        "a number": (7, "holds no state_dict"),
        "nothing": (None, "holds no state_dict"),
        "a list in state_dict": ({"state_dict": [1]}, "holds no state_dict"),
        "no tensors": ({"state_dict": {}}, "lacks"),
    }


@pytest.mark.parametrize("name", odd_states())
def test_an_odd_state_is_refused_by_name(tmp_path: Path, name: str) -> None:
    content, why = odd_states()[name]
    torch.save(content, tmp_path / "m.pt")
    with pytest.raises(EncoderFileError) as caught:
        load_openphenom(tmp_path / "m.pt", TINY, block_bias="mlp")
    assert str(caught.value).startswith(f"{tmp_path / 'm.pt'}: ")
    assert why in str(caught.value)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_random_damage_of_a_torch_file_is_refused_or_changes_numbers_alone(tmp_path: Path, legacy: bool) -> None:
    """150 files with random bytes in their pickle or archive; no other exception, and never another shape or type."""
    path, generator = tmp_path / "m.pt", random.Random(0)
    model = trained("mlp")
    torch.save(model.state_dict(), path, _use_new_zipfile_serialization=not legacy)
    raw = path.read_bytes()
    for _ in range(150):
        content = bytearray(raw)
        for _ in range(8):
            content[generator.randrange(min(len(raw), 4000))] = generator.randrange(256)
        path.write_bytes(content[: generator.choice([len(raw), len(raw), generator.randrange(len(raw))])])
        try:
            again = load_openphenom(path, TINY, block_bias="mlp")
        except EncoderFileError as error:
            assert str(error).startswith(f"{path}: ")  # noqa: PT017  (most are refused, not all)
            continue
        assert {name: value.shape for name, value in again.state_dict().items()} == {
            name: value.shape for name, value in model.state_dict().items()
        }
