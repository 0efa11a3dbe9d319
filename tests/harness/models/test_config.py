"""Covers `config`: the paper's models, and errors for impossible configurations."""

from dataclasses import replace

import pytest

from harness.models.config import PAPER_MODELS, named_config, vit_config


@pytest.mark.parametrize(
    ("size", "shape"),
    [("S", (384, 12, 6, 0.1)), ("B", (768, 12, 12, 0.1)), ("L", (1024, 24, 16, 0.3)), ("G", (1664, 48, 16, 0.3))],
)
def test_the_papers_encoders(size: str, shape: tuple[int, int, int, float]) -> None:
    config = vit_config(size, 16)
    assert (config.width, config.depth, config.heads, config.drop_path) == shape
    assert (config.decoder_width, config.decoder_depth, config.decoder_heads) == (512, 8, 16)
    assert (config.mask_ratio, config.layer_scale, config.qk_norm, config.fourier_weight) == (0.75, 1e-4, True, 0)


def test_plus_adds_the_fourier_loss_and_nothing_else() -> None:
    assert vit_config("L", 8, plus=True) == replace(vit_config("L", 8), fourier_weight=0.01)


@pytest.mark.parametrize(("patch", "tokens", "visible"), [(16, 256, 64), (8, 1024, 256)])
def test_a_quarter_of_the_patches_is_visible(patch: int, tokens: int, visible: int) -> None:
    config = vit_config("S", patch)
    assert (config.patches, config.visible_patches) == (tokens, visible)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"patch": 48}, "crop 256 is not a multiple of patch 48"),
        ({"width": 385}, r"width is 385.*multiple of heads \(6\)"),
        ({"width": 30, "heads": 3}, "width is 30.*multiple of 4"),
        ({"decoder_width": 100}, r"decoder_width is 100.*decoder_heads \(16\)"),
        ({"depth": 0}, "depth is 0"),
        ({"channels": -1}, "channels is -1"),
        ({"mask_ratio": 1.5}, "mask_ratio is 1.5"),
        ({"mask_ratio": 0.0}, "leaves 256 of 256 patches visible"),
        ({"mask_ratio": 0.999}, "leaves 0 of 256 patches visible"),
        ({"drop_path": 1.0}, "drop_path is 1.0"),
        ({"fourier_weight": -0.1}, "fourier_weight is -0.1"),
        ({"layer_scale": 0.0}, "layer_scale is 0.0"),
        ({"fourier_mode": "pixel"}, "fourier_mode is 'pixel'.*patch"),
        ({"fourier_norm": "forward"}, "fourier_norm is 'forward'.*ortho"),
        ({"pool": "max"}, "pool is 'max'.*mean_std"),
    ],
)
def test_impossible_values_are_refused_with_the_field_name(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(named_config("S/16"), **change)


def test_an_unknown_size_is_refused() -> None:
    with pytest.raises(ValueError, match="no ViT of size 'H': known are S, B, L, G"):
        vit_config("H", 8)


def test_every_model_of_the_supplement_has_its_name() -> None:
    assert PAPER_MODELS == (
        "S/16", "S/16+", "S/8", "S/8+", "B/16", "B/16+", "B/8", "B/8+", "L/16", "L/16+", "L/8", "L/8+"
    )  # fmt: skip
    assert named_config("L/8+") == vit_config("L", 8, plus=True)
    assert len({named_config(name) for name in PAPER_MODELS}) == 12


@pytest.mark.parametrize("name", ["L/8++", "L/14", "vit_l8", "H/8", ""])
def test_an_unknown_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"no model .*: the paper has S/16, S/16\+"):
        named_config(name)
