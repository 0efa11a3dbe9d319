"""The plan: what a study costs, whether it fits, and the paper's own study compared with its published figures.

Covers `cost`, `step_time`, `memory`, `memory_tracker` and `table`.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from printed import read_table

from analysis.compute.flops import VitMae, encoder_parameters
from harness import sweep
from harness.distributed.optimiser import build_optimiser
from harness.models.config import MaeConfig
from harness.models.layers.masking import masking_noise
from harness.models.mae import MaskedAutoencoder
from harness.plan.memory import Setting, alternatives, encoder_block_numbers, memory, moments_per_parameter, state_bytes
from harness.plan.step_time import traffic_bytes, traffic_seconds
from harness.recipe.gpus import GPUS, gpu_named
from harness.stages.missing import CellWork

RECIPE = str(Path(__file__).parents[3] / "recipes" / "scaling.yaml")
S16 = VitMae(width=384, depth=12, heads=6, patch=16)
B8 = VitMae(width=768, depth=12, heads=12, patch=8)
L8 = VitMae(width=1024, depth=24, heads=16, patch=8)
FSDP = Setting("fsdp", 256, 256, 8, "bf16", "none", "lion")


def plan(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = sweep.main(["plan", RECIPE, "--profile", "slurm", *words])
    found = capsys.readouterr()
    return code, found.out, found.err


def test_the_papers_study_comes_out_beside_its_published_cost(capsys: pytest.CaptureFixture[str]) -> None:
    """3.5 G crops at 11% of an A100 are the paper's "more than 20,000 A100 hours", to two digits."""
    code, out, _ = plan(capsys)
    assert code == 0
    said = out[out.index("the paper's vit_l8_plus") :]
    assert "3.5G crops in more than 20,000 A100 hours; here 4.65G" in said
    assert "after 37.6 of 50 epochs" in said
    hours = float(said.split(": ")[-1].split(" A100 hours")[0].replace(",", ""))
    assert hours == pytest.approx(3.5e9 * 696e9 / (0.11 * 312e12) / 3600, rel=0.002)  # 696 GFLOPs a crop
    assert hours == pytest.approx(20_000, rel=0.03)


def test_every_number_stands_under_its_head_under_long_names(capsys: pytest.CaptureFixture[str]) -> None:
    """A long name shifted the cells of its row. Steps, crops and GPUs by hand: 50 epochs of 93 M images, 32 nodes."""
    name = "a_model_with_a_very_long_name"
    added = f"models.{name}={{size: L, patch: 8, width: 1024, depth: 24, heads: 16}}"
    fields = [f"train.learning_rate.{name}=3e-5", f"launch.nodes.{name}=32", f"launch.crops_per_gpu_step.{name}=64"]
    grid = [f"grid.models=[{name}]", "grid.datasets=[rpi_93m]", "grid.untrained=false"]
    code, out, _ = plan(capsys, "--wide", added, *fields, *grid)
    assert code == 0
    (row,) = read_table(out, "cell")
    assert row["cell"].startswith(f"{name}-rpi_93m-s0-")
    assert (row["crops"], row["steps"]) == ("4.65G", str(50 * 93_000_000 // 16_384))
    assert (row["GPUs"], row["crops/GPU"]) == ("256", "1×64")
    assert float(row["GPU h"]) == pytest.approx(256 * float(row["hours"]), rel=1e-3)


def test_the_whole_of_it_is_there_for_scripts(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = plan(capsys, "--json", "grid.models=[vit_l8]", "grid.datasets=[rxrx3]", "hardware.gpu=H100-SXM")
    assert code == 0
    found = json.loads(out)
    cell = next(cell for cell in found["cells"] if cell["cell"].startswith("vit_l8-rxrx3"))
    assert found["machine"]["peak_tflops"] == 989.4
    assert (cell["gpus"], cell["crops"], cell["run"]["part"]) == (256, 26855 * 4096, 16)
    assert cell["gpu_hours"] == pytest.approx(26855 * 4096 * 696e9 / (0.3 * 989.4e12) / 3600, rel=0.002)
    assert cell["embed_gpu_hours"] == pytest.approx(2.2e6 * 64 * 2 * 361.6e9 / (0.3 * 989.4e12) / 3600, rel=0.002)


def test_what_cannot_fit_is_refused_in_the_recipes_words(capsys: pytest.CaptureFixture[str]) -> None:
    """16,384 crops over 8 GPUs are 2,048 a pass: 128 GB of activations for ViT-S/16."""
    words = ["grid.models=[vit_s16]", "grid.datasets=[rpi_52m]", "launch.crops_per_gpu_step=null"]
    code, _, err = plan(capsys, *words)
    assert code == 1
    assert "vit_s16 with 2048 crops a pass on 8 GPUs needs 128 GB of A100-80GB's 86" in err
    suggested = err.split("; ")[1].split(" would")[0]
    code, _, err = plan(capsys, *words, suggested)
    assert (code, err) == (0, "")


def test_a_run_that_cannot_fit_submits_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("harness.data.prepare.prepare", lambda recipe: None)
    monkeypatch.setattr("harness.check.command.before_run", lambda recipe, force: None)
    monkeypatch.setattr(
        "harness.stages.missing.missing_stages", lambda recipe, cell, shared: CellWork(cell, {}, ("train",))
    )
    monkeypatch.setattr("harness.launch.slurm.submit.submit", lambda *_: pytest.fail("submitted"))
    words = [f"output={tmp_path}", "hardware.gpu=A10G", "grid.models=[vit_l8]", "grid.datasets=[rxrx1]"]
    assert sweep.main([RECIPE, "--profile", "slurm", *words, "launch.nodes=1"]) == 2
    assert "vit_l8 with 64 crops a pass on 8 GPUs needs" in capsys.readouterr().err


def test_a_gpu_that_the_table_lacks_needs_its_figures(capsys: pytest.CaptureFixture[str]) -> None:
    assert sweep.main(["plan", RECIPE, "--profile", "slurm", "hardware.gpu=TPU"]) == 2
    assert "state peak_tflops, memory_gb, watts, link_gb_s, network_gb_s, price_per_hour" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "setting"),
    [
        ("vit_s16", FSDP),
        ("vit_b8", replace(FSDP, recompute="selective")),
        ("vit_l8", FSDP),
        ("vit_l8", replace(FSDP, recompute="full")),
        ("vit_g8", FSDP),
        ("vit_g8", replace(FSDP, recompute="full")),
        ("vit_l8", replace(FSDP, recompute="full", passes=2)),
        ("vit_l8", replace(FSDP, recompute="full", passes=2, reduce_at="pass")),
    ],
    ids=lambda value: f"{value.recompute}-{value.passes}-{value.reduce_at}" if isinstance(value, Setting) else value,
)
def test_the_closed_form_is_what_torchs_tracker_counts(name: str, setting: Setting) -> None:
    """ViT-G/8 of 48 blocks too. Two passes that are reduced once keep whole gradients: 1.3 GB of L/8."""
    from harness.plan.memory_tracker import model_named, rank_memory

    config = model_named(name)
    tracked = rank_memory(
        config, world=256, crops=setting.crops, recompute=setting.recompute, passes=setting.passes,
        reduce_at=setting.reduce_at,
    )  # fmt: skip
    assert memory(config, setting).total == pytest.approx(tracked.peak, rel=0.02)


def test_a_block_without_padding_has_the_parameters_that_the_flops_count() -> None:
    blocks = S16.depth * encoder_block_numbers(S16, 1)
    outside = (16 * 16 * 6 + 1) * 384 + 384 + 2 * 384  # patch embedding, class token, final norm
    assert encoder_parameters(S16) == blocks + outside


def test_traffic_by_hand() -> None:
    """A large ring sends each gradient twice; sharded weights are gathered in the forward and the backward pass."""
    assert traffic_bytes(10, "ddp", passes=3) == 80
    assert traffic_bytes(10, "ddp", passes=3, ddp_gradients=2) == 40
    assert traffic_bytes(10, "fsdp", passes=3) == 3 * 2 * 20 + 40
    assert traffic_bytes(10, "fsdp", passes=3, reductions=3) == 3 * 2 * 20 + 3 * 40
    assert traffic_bytes(10, "single", passes=1) == 0
    a100 = gpu_named("a100-80gb")
    assert a100 is not None
    ddp = replace(FSDP, engine="ddp")
    across = traffic_seconds(L8, ddp, 32, a100)
    assert across == pytest.approx(8 * 328.6e6 / 200e9, rel=0.01)  # eight 25 GB/s ports a node
    assert traffic_seconds(L8, replace(ddp, world=8), 1, a100) == pytest.approx(8 * 328.6e6 / 300e9, rel=0.01)


@given(part=st.integers(1, 4096), world=st.sampled_from([1, 8, 64]), gigabytes=st.floats(1, 200))
def test_the_nearest_change_is_the_first_that_fits(part: int, world: int, gigabytes: float) -> None:
    setting = replace(FSDP, engine="ddp" if world > 1 else "single", world=world, shard=8, crops=part)
    tried = list(alternatives(setting, part))
    assert all(part % one.crops == 0 for _, one in tried)
    sizes = [one.crops for _, one in tried if one.recompute == "none"]
    assert sizes == sorted(sizes, reverse=True)
    fits = [memory(B8, one).total <= gigabytes * 1e9 for _, one in tried]
    if any(fits):
        assert memory(B8, tried[fits.index(True)][1]).total <= gigabytes * 1e9


def test_names_of_machines_are_unique_whatever_their_case() -> None:
    assert len({gpu.name.lower() for gpu in GPUS}) == len(GPUS)


@pytest.mark.parametrize(
    ("optimiser", "rest"),
    [("lion", "adamw"), ("adamw", "adamw"), ("sgd", "adamw"), ("muon", "adamw"), ("muon", "lion")],
)
def test_the_moments_of_an_optimiser_are_those_that_it_keeps(
    optimiser: Literal["lion", "adamw", "sgd", "muon"], rest: Literal["adamw", "lion"]
) -> None:
    """Counted in the state of a real one after a step, without the step counts."""
    config = MaeConfig(width=16, depth=3, heads=2, patch=8, crop=16, channels=3, decoder_width=24, decoder_depth=2,
                       decoder_heads=2)  # fmt: skip
    model = MaskedAutoencoder(config)
    built = build_optimiser(model, optimiser, peak=1e-3, weight_decay=0.1, rest=rest)
    model(torch.randn(2, 3, 16, 16), masking_noise(0, range(2), config.noise_values)).loss.backward()
    built.step()
    kept = sum(value.numel() for state in built.state.values() for name, value in state.items() if name != "step")
    setting = replace(FSDP, optimiser=optimiser, rest=rest)
    assert moments_per_parameter(config, setting) == pytest.approx(kept / config.parameters())


def test_muon_needs_less_memory_than_adamw_and_a_little_more_than_lion() -> None:
    """Of ViT-L/8, 99% are hidden matrices: 4 bytes of state for each, and 8 for the rest."""
    lion, muon, adamw = (
        state_bytes(L8, replace(FSDP, engine="ddp", optimiser=name)) for name in ("lion", "muon", "adamw")
    )
    others = L8.parameters() - 12 * (24 * 1024**2 + 8 * 512**2) - 1024 * 512
    assert muon - lion == pytest.approx(4 * others)
    assert lion < muon < adamw


@pytest.mark.parametrize("passes", [1, 4])
@pytest.mark.parametrize("engine", ["hsdp", "fsdp", "ddp"])
def test_an_alternative_is_what_its_words_change(engine: Literal["hsdp", "fsdp", "ddp"], passes: int) -> None:
    """Whoever changes the fields that are named, and no others, gets the setting whose memory was found to fit."""
    part = 64
    setting = Setting(engine, 16, 8, part // passes, "bf16", "none", "lion", passes=passes)
    for words, proposed in alternatives(setting, part):
        fields = dict(re.findall(r"launch\.(\w+)=(\w+)", words))
        crops = int(fields.get("crops_per_gpu_step", setting.crops))
        changed = replace(setting, crops=crops, passes=part // crops)
        given = {name: value for name, value in fields.items() if name != "crops_per_gpu_step"}
        assert proposed == replace(changed, **given), words  # type: ignore[arg-type]
