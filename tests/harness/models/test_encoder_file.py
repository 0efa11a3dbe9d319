"""Covers `encoder_file`: a saved encoder loads into timm with the same outputs, and any other file is refused."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from harness.models.config import MaeConfig, Pool, named_config
from harness.models.encoder_file import (
    FORMAT,
    EncoderFileError,
    SelfStandardise,
    expected_shapes,
    load_config,
    load_encoder,
    load_transform,
    save_encoder,
)
from harness.models.layers.timm_import import import_timm
from harness.models.mae import MaskedAutoencoder
from shards.loader.transform import self_standardise

TINY = MaeConfig(
    width=32, depth=2, heads=2, patch=4, crop=16, channels=3, decoder_width=16, decoder_depth=1, decoder_heads=2,
    layer_scale=0.5, drop_path=0.1,
)  # fmt: skip


def build(config: MaeConfig = TINY) -> MaskedAutoencoder:
    torch.manual_seed(0)
    return MaskedAutoencoder(config).eval()


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "encoder.safetensors"
    save_encoder(path, build().encoder.state_dict(), TINY, value_range=4095.0, notes={"cell": "vit-one-s0"})
    return path


@pytest.fixture
def pixels() -> Tensor:
    return torch.randint(0, 4096, (4, 3, 16, 16), generator=torch.Generator().manual_seed(1)).to(torch.uint16)


def test_a_value_range_of_each_channel_is_in_the_file(saved: Path, pixels: Tensor) -> None:
    ranges = (4095.0, 900.0, 300.0)
    save_encoder(saved, build().encoder.state_dict(), TINY, value_range=ranges)
    torch.testing.assert_close(load_transform(saved)(pixels), self_standardise(pixels, ranges), rtol=0, atol=0)


@pytest.mark.parametrize("pool", ["class", "mean", "std", "mean_std"])
def test_the_loaded_encoder_is_timms_with_the_same_outputs(tmp_path: Path, pixels: Tensor, pool: Pool) -> None:
    ours, path = build(replace(TINY, pool=pool)), tmp_path / "encoder.safetensors"
    save_encoder(path, ours.encoder.state_dict(), ours.config, value_range=4095.0)
    encoder, images = load_encoder(path), load_transform(path)(pixels)
    assert isinstance(encoder, import_timm().models.vision_transformer.VisionTransformer)
    assert not encoder.training
    with torch.no_grad():
        torch.testing.assert_close(
            encoder.forward_features(images), ours.encoder(ours._patches(images)), atol=1e-6, rtol=0
        )
        torch.testing.assert_close(encoder(images), ours.embed(images), atol=1e-6, rtol=0)
        assert encoder(images).shape[1] == encoder.num_features


@torch.no_grad()
def test_an_encoder_trained_under_mup_is_a_plain_one(tmp_path: Path, pixels: Tensor) -> None:
    """Its multipliers are in the weights: heads of another width than 64, another depth, and nothing to state."""
    mup = replace(TINY, parametrisation="mup", base_width=64, base_depth=8)
    ours, path = build(mup), tmp_path / "encoder.safetensors"
    save_encoder(path, ours.encoder.state_dict(), mup, value_range=4095.0)
    assert load_config(path) == TINY
    images = load_transform(path)(pixels)
    torch.testing.assert_close(
        load_encoder(path).forward_features(images), ours.encoder(ours._patches(images)), atol=1e-5, rtol=0
    )


@torch.no_grad()
def test_an_encoder_of_the_published_formula_is_exact_in_timm(tmp_path: Path) -> None:
    """A shifted bias becomes the bias of a block with QKV bias, which every version of timm computes alike."""
    ours, path = build(replace(TINY, block_bias="timm-0.8.13")).double(), tmp_path / "encoder.safetensors"
    for parameter in ours.parameters():
        parameter.add_(torch.randn_like(parameter) * 0.2)
    save_encoder(path, ours.encoder.state_dict(), ours.config)
    encoder = load_encoder(path)
    images = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    torch.testing.assert_close(encoder(images), ours.embed(images), atol=1e-10, rtol=0)
    assert encoder.pretrained_cfg["block_bias"] == "timm-0.8.13"
    assert encoder.pretrained_cfg["timm"] == import_timm().__version__
    assert not encoder.blocks[0].in_proj.bias[: 3 * TINY.width].any()
    changed = load_file(path)
    changed["blocks.1.in_proj.bias"][0] = 1.0
    with safe_open(path, "pt") as file:
        save_file(changed, path, file.metadata())
    with pytest.raises(EncoderFileError, match=r"blocks\.1\.in_proj\.bias is not a shifted bias"):
        load_encoder(path)


def test_a_file_that_does_not_state_its_formula_is_read_with_a_warning(saved: Path) -> None:
    with safe_open(saved, "pt") as file:
        metadata = dict(file.metadata())
    config = {k: v for k, v in json.loads(metadata["config"]).items() if k not in ("block_bias", "initialisation")}
    metadata |= {"format": "microscopy-scaling-encoder-1", "config": json.dumps(config)}
    save_file(load_file(saved), saved, metadata)
    with pytest.warns(UserWarning, match=r"does not say how its blocks add their bias: read as by timm 1\.0\.25"):
        assert load_encoder(saved).pretrained_cfg["block_bias"] == "mlp"


@pytest.mark.slow
def test_a_full_network_gives_the_same_outputs_in_float64(tmp_path: Path) -> None:
    """Twelve blocks at full width: float32 outputs differ by rounding, float64 ones by less than 1e-11."""
    ours = build(replace(named_config("S/16"), layer_scale=0.5)).double()
    save_encoder(tmp_path / "encoder.safetensors", ours.encoder.state_dict(), ours.config)
    encoder = load_encoder(tmp_path / "encoder.safetensors")
    images = torch.randn(1, 6, 256, 256, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    with torch.no_grad():
        tokens = ours.encoder(ours._patches(images))
        torch.testing.assert_close(encoder.forward_features(images), tokens, atol=1e-11, rtol=0)
        torch.testing.assert_close(encoder(images), ours.embed(images), atol=1e-11, rtol=0)


def test_a_pool_of_timm_gives_timms_own_class(saved: Path) -> None:
    """Its own class can be pickled and scripted, and works with timm's tools."""
    assert type(load_encoder(saved)) is import_timm().models.vision_transformer.VisionTransformer


def test_an_encoder_has_its_metadata_and_can_be_fine_tuned(saved: Path, pixels: Tensor) -> None:
    encoder = load_encoder(saved)
    assert encoder.pretrained_cfg["cell"] == "vit-one-s0"
    assert load_config(saved) == TINY
    encoder(load_transform(saved)(pixels)).sum().backward()
    assert encoder.blocks[0].in_proj.weight.grad is not None
    assert not encoder.pos_embed.requires_grad


def test_timm_alone_loads_the_file(saved: Path, pixels: Tensor) -> None:
    """The model card states that this package is not needed."""
    vision_transformer = import_timm().models.vision_transformer
    peer = vision_transformer.VisionTransformer(
        img_size=16, patch_size=4, in_chans=3, num_classes=0, embed_dim=32, depth=2, num_heads=2, qkv_bias=False,
        qk_norm=True, init_values=0.5, global_pool="avg", fc_norm=False,
        block_fn=vision_transformer.ParallelScalingBlock,
    )  # fmt: skip
    peer.load_state_dict(load_file(saved), strict=True)
    images = load_transform(saved)(pixels)
    with torch.no_grad():
        torch.testing.assert_close(peer.eval()(images), load_encoder(saved)(images), atol=0, rtol=0)


def test_a_header_whose_length_looks_like_a_pickle_is_read(saved: Path) -> None:
    """The first byte of a pickle, 0x80, is also the low byte of many lengths, such as 2,432 = 0x980."""
    raw = saved.read_bytes()
    size = struct.unpack("<Q", raw[:8])[0]
    padded = size + (0x80 - size) % 256
    saved.write_bytes(struct.pack("<Q", padded) + raw[8 : 8 + size].ljust(padded) + raw[8 + size :])
    assert saved.read_bytes()[:1] == b"\x80"
    assert load_config(saved) == TINY
    load_encoder(saved)


def test_the_transform_standardises_one_image_or_many(saved: Path, pixels: Tensor) -> None:
    transform = load_transform(saved)
    many = transform(pixels)
    torch.testing.assert_close(many.mean(dim=(2, 3)), torch.zeros(4, 3), atol=1e-5, rtol=0)
    torch.testing.assert_close(many.var(dim=(2, 3), correction=0), torch.ones(4, 3), atol=1e-3, rtol=0)
    torch.testing.assert_close(transform(pixels[1]), many[1])
    with pytest.raises(ValueError, match="give value_range"):
        SelfStandardise()(pixels.float())


@pytest.mark.parametrize("name", ["S/16", "L/8+"])
def test_expected_shapes_are_those_of_the_network(name: str) -> None:
    with torch.device("meta"):
        state = MaskedAutoencoder(named_config(name)).encoder.state_dict()
    assert {key: tuple(value.shape) for key, value in state.items()} == expected_shapes(named_config(name))


# ---- files that are refused


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("exploded"),))


def test_a_pickle_renamed_to_safetensors_is_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "encoder.safetensors"
    for legacy in (False, True):
        torch.save({"w": Bomb()}, path, _use_new_zipfile_serialization=not legacy)
        with pytest.raises(EncoderFileError, match=r"encoder\.safetensors: a pickle under another name"):
            load_encoder(path)
    assert not (tmp_path / "exploded").exists()


def write_raw(path: Path, header: bytes, size: int | None = None, body: bytes = b"") -> None:
    path.write_bytes(struct.pack("<Q", len(header) if size is None else size) + header + body)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda p: p.write_bytes(b""), "not a safetensors file, or cut off"),
        (lambda p: p.write_bytes(b"\x89PNG\r\n\x1a\n" + b"x" * 50), "not a safetensors file, or cut off"),
        (lambda p: write_raw(p, b"{}", size=2**63), "not a safetensors file, or cut off"),
        (lambda p: write_raw(p, b"not json"), "its header is not JSON"),
        (lambda p: write_raw(p, b"[" * 100_000), "its header is not JSON"),
        (lambda p: write_raw(p, b"[1, 2]"), "its header is not a mapping"),
        (lambda p: write_raw(p, b"\xff\xfe{}"), "its header is not JSON"),
        (lambda p: save_file({"w": torch.zeros(2)}, p), "not an encoder of this project"),
        (lambda p: save_file({"w": torch.zeros(2)}, p, {"format": "pt"}), "not an encoder of this project"),
    ],
)
def test_other_files_are_refused_with_their_path(tmp_path: Path, write: Callable[[Path], Any], message: str) -> None:
    path = tmp_path / "encoder.safetensors"
    write(path)
    with pytest.raises(EncoderFileError, match=message) as caught:
        load_encoder(path)
    assert str(path) in str(caught.value)


def test_a_missing_file_is_an_error_with_its_path(tmp_path: Path) -> None:
    with pytest.raises(EncoderFileError, match=r"nowhere\.safetensors: cannot be read: No such file"):
        load_encoder(tmp_path / "nowhere.safetensors")


def rewrite(saved: Path, config: dict[str, Any] | None = None, tensors: dict[str, Any] | None = None) -> None:
    """Rewrite a good file with another config or other tensors (None removes one)."""
    weights = load_file(saved) | (tensors or {})
    metadata = {"format": FORMAT, "value_range": "null"}
    metadata["config"] = json.dumps({**vars(TINY), **(config or {})})
    save_file({name: value for name, value in weights.items() if value is not None}, saved, metadata)


@pytest.mark.parametrize(
    ("config", "tensors", "message"),
    [
        ({"depth": 10**9}, {}, "its config has 1000000000 blocks, the file has 32 tensors"),
        ({"crop": 4 * 10**9}, {}, r"pos_embed has shape \(1, 17, 32\), its config says"),
        ({"width": 64}, {}, "has shape .* its config says"),
        ({"width": 32.0}, {}, r"width is 32\.0, not a whole number"),
        ({"width": "32"}, {}, "width is '32', not a whole number"),
        ({"heads": 3}, {}, "width is 32: it must be a multiple of heads"),
        ({"colour": 1}, {}, "'colour', which this version does not know"),
        ({}, {"norm.bias": None}, r"lacks 'norm\.bias' \(1 missing, 0 foreign\)"),
        ({}, {"head.weight": torch.zeros(2)}, r"has 'head\.weight', which an encoder does not have"),
        ({}, {"norm.bias": torch.zeros(31)}, r"norm\.bias has shape \(31,\), its config says \(32,\)"),
        ({}, {"norm.bias": torch.zeros(32, dtype=torch.int64)}, r"norm\.bias is I64: weights must be floating point"),
        ({}, {"norm.bias": torch.full((32,), torch.nan)}, r"norm\.bias holds NaN or infinity"),
    ],
)
def test_a_file_that_contradicts_itself_is_refused(
    saved: Path, config: dict[str, Any], tensors: dict[str, Any], message: str
) -> None:
    rewrite(saved, config, tensors)
    with pytest.raises(EncoderFileError, match=message):
        load_encoder(saved)


def test_a_truncated_file_is_refused(saved: Path) -> None:
    saved.write_bytes(saved.read_bytes()[:-100])
    with pytest.raises(EncoderFileError, match="damaged"):
        load_encoder(saved)


def test_foreign_weights_are_not_written(tmp_path: Path) -> None:
    weights = build().encoder.state_dict() | {"head.weight": torch.zeros(1)}
    with pytest.raises(EncoderFileError, match=r"has 'head\.weight'"):
        save_encoder(tmp_path / "encoder.safetensors", weights, TINY)
    assert list(tmp_path.iterdir()) == []


def test_pipes_and_devices_are_refused_and_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.safetensors")
    (tmp_path / "zeros.safetensors").symlink_to("/dev/zero")
    for name in ("pipe.safetensors", "zeros.safetensors"):
        with pytest.raises(EncoderFileError, match=f"{name}: not a regular file"):
            load_encoder(tmp_path / name)


ODD_CONFIGS: list[tuple[str, object, str]] = [
    ("width", 10**400, "its config"),
    ("crop", 10**400, "its config"),
    ("depth", -1, "depth is -1: it must be a positive whole number"),
    ("heads", 10**30, "width is 32: it must be a multiple of heads"),
    ("decoder_depth", 10**9, "decoder_depth is 1000000000, not a whole number of at most 1,000,000"),
    ("decoder_width", 10**400, "decoder_width is huge, not a whole number of at most"),
    ("drop_path", "0.1", "drop_path is '0.1', not a finite number"),
    ("drop_path", True, "drop_path is True, not a finite number"),
    ("drop_path", 10**400, "drop_path is huge, not a finite number"),
    ("layer_scale", True, "layer_scale is True, not a finite number or null"),
    ("layer_scale", [], r"layer_scale is \[\], not a finite number or null"),
    ("qk_norm", "yes", "qk_norm is 'yes', not true or false"),
    ("qk_norm", 1, "qk_norm is 1, not true or false"),
    ("pool", ["mean"], "pool is"),
    ("pool", None, "pool is None: it must be one of"),
    ("mask_ratio", "x", "mask_ratio is 'x'"),
]


@pytest.mark.parametrize(("field", "value", "why"), ODD_CONFIGS, ids=lambda value: str(value)[:20])
def test_an_odd_config_is_refused_by_field(saved: Path, field: str, value: object, why: str) -> None:
    rewrite(saved, {field: value})
    for load in (load_encoder, load_config, load_transform):
        with pytest.raises(EncoderFileError, match=why) as caught:
            load(saved)
        assert str(caught.value).startswith(f"{saved}: ")


ODD_TEXTS = ["", "[]", "7", "null", "{", "[" * 100_000, '{"width": NaN}', '{"width": 1e999}', "1" * 5000]


@pytest.mark.parametrize("text", ODD_TEXTS, ids=range(len(ODD_TEXTS)))
def test_a_config_that_is_none_is_refused(saved: Path, text: str) -> None:
    save_file(load_file(saved), saved, {"format": FORMAT, "value_range": "null", "config": text})
    with pytest.raises(EncoderFileError, match="no encoder can be built from its config"):
        load_encoder(saved)


@pytest.mark.parametrize("text", ["", "0", "-1", "true", "[]", "{}", "NaN", "1e999", '"255"', "[" * 100_000, "1e300"])
def test_a_value_range_that_is_no_positive_number_is_refused(saved: Path, text: str) -> None:
    metadata = {"format": FORMAT, "config": json.dumps(vars(TINY)), "value_range": text}
    save_file(load_file(saved), saved, metadata)
    for load in (load_encoder, load_config, load_transform):
        with pytest.raises(EncoderFileError, match=r"encoder\.safetensors: its value_range is"):
            load(saved)
