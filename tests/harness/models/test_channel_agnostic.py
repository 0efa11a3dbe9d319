"""Covers `channel_agnostic`, `channel_agnostic_config` and `openphenom`: any channels in any order, masking before the
encoder, OpenPhenom's names and shapes."""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.utils.flop_counter import FlopCounterMode

from analysis.compute.systems import ChannelAgnosticCost
from harness.export import export_cell
from harness.grid.cell_folder import RECONSTRUCTIONS, cell_folder
from harness.grid.cells import cells
from harness.models.architecture import configure
from harness.models.channel_agnostic import ChannelAgnosticMae, positions
from harness.models.channel_agnostic_config import ChannelAgnosticConfig
from harness.models.encoder_file import EncoderFileError
from harness.models.layers.masking import masking_noise
from harness.models.openphenom import OPENPHENOM, load_openphenom, save_openphenom
from harness.recipe.errors import RecipeError
from harness.recipe.load import load
from harness.recipe.schema import Recipe
from harness.stages.run import run_cell
from harness.storage import ledger

TINY = ChannelAgnosticConfig(
    width=16, depth=2, heads=2, patch=8, crop=32, channels=3, train_channels=(0, 1, 2), decoder_width=16,
    decoder_depth=1, decoder_heads=2, layer_scale=0.5, drop_path=0.2,
)  # fmt: skip
SIZES = {"S": (384, 12, 6), "B": (768, 12, 12), "L": (1024, 24, 16)}


def build(config: ChannelAgnosticConfig = TINY) -> ChannelAgnosticMae:
    torch.manual_seed(1)
    return ChannelAgnosticMae(config).eval()


def images(channels: int = 3, count: int = 2) -> torch.Tensor:
    return torch.randn(count, channels, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("channels", [1, 3, 5, 14])
def test_an_embedding_takes_any_number_of_channels_in_any_order(channels: int) -> None:
    """The encoder has no channel-specific input, so order matters only by rounding; 14 exceed its positions' table."""
    model, crops = build(), images(channels)
    with torch.no_grad():
        embedding, by_channel = model.embed(crops), model.embed_channels(crops)
        order = torch.randperm(channels, generator=torch.Generator().manual_seed(2))
        torch.testing.assert_close(model.embed(crops[:, order]), embedding, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(model.embed_channels(crops[:, order]), by_channel[:, order], atol=1e-5, rtol=1e-5)
    assert by_channel.shape == (2, channels, 16)
    torch.testing.assert_close(by_channel.mean(1), embedding)


def test_channels_attend_to_each_other() -> None:
    model, crops = build(), images()
    other = torch.cat([crops[:, :2], crops[:, :1]], dim=1)
    with torch.no_grad():
        assert not torch.allclose(model.embed_channels(crops)[:, 0], model.embed_channels(other)[:, 0], atol=1e-4)


def test_masked_patches_do_not_reach_the_encoder() -> None:
    model, crops = build(), images()
    noise = masking_noise(0, range(2), TINY.mask_values)
    lengths: list[int] = []
    for block in model._backbone.blocks:
        block.register_forward_hook(lambda _module, inputs, _output: lengths.append(inputs[0].shape[1]))
    with torch.no_grad():
        output = model(crops, noise)
        hidden = model.reconstruct(crops, noise).mask
        changed = torch.where(hidden, torch.full_like(crops, 7.0), crops)
        again = model(changed, noise)
    assert set(lengths) == {1 + 3 * 16 // 4}
    assert output.mask.sum(1).tolist() == [36, 36]
    torch.testing.assert_close(again.prediction, output.prediction)
    assert again.loss > output.loss


def test_the_loss_is_the_error_over_masked_pixels_of_the_trained_channels() -> None:
    config = ChannelAgnosticConfig(**{**vars(TINY), "channels": 4, "train_channels": (2, 0)})
    model, crops = build(config), images(4)
    noise = masking_noise(0, range(2), config.mask_values)
    with torch.no_grad():
        output, filled = model(crops, noise), model.reconstruct(crops, noise)
    assert not filled.mask[:, [1, 3]].any()
    torch.testing.assert_close(filled.image[:, [1, 3]], crops[:, [1, 3]])
    torch.testing.assert_close(output.loss, (filled.image - crops)[filled.mask].square().mean())
    torch.testing.assert_close(model.trivial_loss(crops, output), crops[filled.mask].square().mean())


def test_channels_in_another_order_are_reconstructed_by_their_own_decoders() -> None:
    """Swapping two channels, their noise and their decoders swaps the reconstruction."""
    model, crops = build(), images()
    noise = masking_noise(0, range(2), TINY.mask_values)
    swapped = noise.reshape(2, 3, 16)[:, [1, 0, 2]].reshape(2, -1)
    with torch.no_grad():
        as_trained = model.reconstruct(crops, noise).image
        reordered = model.reconstruct(crops[:, [1, 0, 2]], swapped, decoders=[1, 0, 2]).image
    torch.testing.assert_close(reordered, as_trained[:, [1, 0, 2]], atol=1e-5, rtol=1e-5)


def test_cross_attention_is_plain_softmax_attention() -> None:
    """Against the explicit formula: eight heads, no bias on queries, keys and values."""
    attention = build().decoder.cross_attention
    tokens, query = torch.randn(2, 9, 16), torch.randn(2, 4, 16)
    q = (query @ attention.q.weight.T).reshape(2, 4, 8, 2).transpose(1, 2)
    k, v = (part.reshape(2, 9, 8, 2).transpose(1, 2) for part in (tokens @ attention.kv.weight.T).split(16, -1))
    attended = (q @ k.transpose(-1, -2) / 2**0.5).softmax(-1) @ v
    expected = attention.proj(attended.transpose(1, 2).reshape(2, 4, 16))
    torch.testing.assert_close(attention(query, *attention.context(tokens)), expected)


def test_positions_repeat_from_channel_to_channel_in_openphenoms_order() -> None:
    table = positions(TINY, 16, 3)
    assert table.shape == (1, 1 + 3 * 16, 16)
    assert not table[:, 0].any()
    torch.testing.assert_close(table[:, 1:17], table[:, 17:33])
    row, column = 2, 3
    frequencies = 1 / 10_000 ** (torch.arange(4) / 4)
    expected = torch.cat([f(at * frequencies) for at in (row, column) for f in (torch.sin, torch.cos)])
    torch.testing.assert_close(table[0, 1 + 4 * row + column], expected, atol=1e-6, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES)
def test_counts_match_the_closed_form(size: str) -> None:
    """Trained parameters and multiply-adds, exactly, against torch's FLOP counter on the meta device."""
    width, depth, heads = SIZES[size]
    config = ChannelAgnosticConfig(width=width, depth=depth, heads=heads, patch=16)
    cost = ChannelAgnosticCost(width, depth, heads, 16)
    with torch.device("meta"):
        model = ChannelAgnosticMae(config).eval()
        crops, noise = torch.empty(1, 6, 256, 256), torch.empty(1, config.mask_values)
        with FlopCounterMode(display=False) as counter:
            model(crops, noise)
        with FlopCounterMode(display=False) as dense:
            model.embed(crops)
    assert sum(p.numel() for p in model.parameters()) == cost.parameters()
    assert counter.get_total_flops() == 2 * cost.training_forward_macs()
    assert dense.get_total_flops() == 2 * cost.dense_forward_macs()


def test_openphenom_has_765_tensors_of_178_million_numbers() -> None:
    with torch.device("meta"):
        state = ChannelAgnosticMae(OPENPHENOM).state_dict()
    assert len(state) == 765
    assert round(sum(value.numel() for value in state.values()) / 1e6, 1) == 178.0
    assert state["encoder.vit_backbone.pos_embed"].shape == (1, 1 + 11 * 256, 384)
    assert state["decoder.modality_tokens.5"].shape == (1, 1, 512)
    assert state["decoder.cross_attention.kv.weight"].shape == (1024, 512)
    assert state["encoder.vit_backbone.blocks.11.in_proj.weight"].shape == (4 * 384 + 3 * 384, 384)
    assert state["decoder.decoders.5.7.attn.qkv.bias"].shape == (1536,)
    assert state["decoder_pred.weight"].shape == (256, 512)


@pytest.mark.slow
def test_a_checkpoint_of_openphenoms_size_is_read(tmp_path: Path) -> None:
    """A file of zeros with the documented 765 names and shapes, 712 MB."""
    with torch.device("meta"):
        state = ChannelAgnosticMae(OPENPHENOM).state_dict()
    names = {name.replace("in_proj.shifted_bias", "mlp_bias"): value.shape for name, value in state.items()}
    save_file({name: torch.zeros(shape) for name, shape in names.items()}, tmp_path / "s.safetensors")
    model = load_openphenom(tmp_path / "s.safetensors")
    assert not model.embed(torch.randn(1, 8, 256, 256)).any()


@pytest.mark.parametrize("name", ["m.safetensors", "m.pt"])
def test_a_saved_model_loads_with_the_same_weights(tmp_path: Path, name: str) -> None:
    model, crops = build(), images(5)
    save_openphenom(tmp_path / name, model)
    again = load_openphenom(tmp_path / name, TINY)
    with torch.no_grad():
        torch.testing.assert_close(again.embed(crops), model.embed(crops), rtol=0, atol=0)
    if name == "m.pt":
        assert torch.load(tmp_path / name, weights_only=True)["state_dict"].keys() == model.state_dict().keys()


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (exec, ("raise SystemExit('run by a pickle')",))


def test_files_that_could_run_code_are_refused_with_any_suffix(tmp_path: Path) -> None:
    renamed, torch_pickle, raw = (tmp_path / name for name in ("a.safetensors", "b.pt", "c.safetensors"))
    torch.save({"state_dict": build().state_dict()}, renamed)
    torch.save({"state_dict": Evil()}, torch_pickle)
    raw.write_bytes(pickle.dumps(Evil()))
    with pytest.raises(EncoderFileError, match="a pickle under another name"):
        load_openphenom(renamed, TINY)
    with pytest.raises(EncoderFileError, match="a pickle under another name"):
        load_openphenom(raw, TINY)
    with pytest.raises(EncoderFileError, match="holds more than tensors"):
        load_openphenom(torch_pickle, TINY)


def test_other_files_are_refused_with_the_reason(tmp_path: Path) -> None:
    state = build().state_dict()
    path = tmp_path / "m.safetensors"
    changes = {
        "lacks 'decoder.mask_token'": {k: v for k, v in state.items() if k != "decoder.mask_token"},
        "has 'extra', which this model does not have": state | {"extra": torch.zeros(1)},
        r"decoder_pred.bias has shape \(3,\), this model's has \(64,\)": state | {"decoder_pred.bias": torch.zeros(3)},
        "decoder_pred.bias holds NaN": state | {"decoder_pred.bias": torch.full((64,), float("nan"))},
    }
    for message, weights in changes.items():
        save_file({name: value.contiguous() for name, value in weights.items()}, path)
        with pytest.raises(EncoderFileError, match=message):
            load_openphenom(path, TINY)
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(EncoderFileError, match="damaged"):
        load_openphenom(path, TINY)
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("x", "y")
    (tmp_path / "z.pt").write_bytes(archive.getvalue())
    with pytest.raises(EncoderFileError, match="cannot be read"):
        load_openphenom(tmp_path / "z.pt", TINY)
    with pytest.raises(EncoderFileError, match="no known format"):
        load_openphenom(tmp_path / "z.zip", TINY)


NET = "models.net={kind: channel_agnostic, width: 16, depth: 2, heads: 2, patch: 8, drop_path: 0.1}"


LEARNS = ["train.epochs=40", "train.optimiser.name=adamw", "train.learning_rate=0.01", "mae.layer_scale=0.5"]


@pytest.mark.slow
def test_a_tiny_study_trained_on_a_subset_of_channels_embeds_all(tiny_recipe: Recipe, tiny_recipe_file: Path) -> None:
    overrides = [NET, "models.net.train_channels=[5, 0, 1, 3]", "grid.models=[net]", "grid.datasets=[two]"]
    recipe = load(tiny_recipe_file, "laptop", [*overrides, *LEARNS])
    for cell in cells(recipe):
        run_cell(recipe.model_dump_json(), cell.id)
    trained = next(cell for cell in cells(recipe) if cell.kind == "trained")
    row = ledger.read(recipe.output, trained.id, "train")
    assert row is not None
    assert row.values["validation_loss"] < row.values["mean_predictor_loss"]
    with np.load(cell_folder(recipe, trained) / RECONSTRUCTIONS, allow_pickle=False) as arrays:
        assert not arrays["mask"][:, [2, 4]].any()
        assert arrays["mask"][:, [5, 0, 1, 3]].mean() == pytest.approx(0.75)
    assert ledger.read(recipe.output, trained.id, "evaluate") is not None
    paths = export_cell(recipe, trained, tiny_recipe_file.parent / "export")
    models = [load_openphenom(path, configure(ChannelAgnosticConfig, trained.architecture)) for path in paths[:2]]
    crops = images(5)
    with torch.no_grad():
        torch.testing.assert_close(models[0].embed(crops), models[1].embed(crops), rtol=0, atol=0)


def test_unknown_channels_are_refused(tiny_recipe_file: Path) -> None:
    for wrong in ("[0, 6]", "[1, 1]", "[]"):
        with pytest.raises(RecipeError, match=r"models\.net\.train_channels: must be different numbers below"):
            load(tiny_recipe_file, "laptop", [NET, f"models.net.train_channels={wrong}"])
    with pytest.raises(ValueError, match="must be different numbers below channels, 3"):
        ChannelAgnosticConfig(width=16, depth=1, heads=2, patch=8, channels=3, train_channels=(0, 3))
