"""The training-step benchmark: equal models, missing peers, and the end of the batch search."""

from __future__ import annotations

import pytest
import torch

from benchmarks import timing
from benchmarks.peers import EAGER, OURS, PEERS, EagerMae, StepSetting
from benchmarks.timing import Search, StepSpeed
from benchmarks.train_step import MFU_GOALS, Measurement, config_of, rows, true_flops
from harness.models.config import MaeConfig, named_config

TINY = MaeConfig(
    width=32, depth=2, heads=2, patch=4, crop=16, channels=3, decoder_width=16, decoder_depth=1, decoder_heads=2
)  # fmt: skip
CPU = torch.device("cpu")


def test_true_flops_are_those_of_the_table() -> None:
    """52.8 GFLOP for S/16 and 696 for L/8, forward and backward, per crop."""
    assert true_flops(named_config("S/16")) == pytest.approx(52.8e9, rel=0.002)
    assert true_flops(named_config("L/8+")) == pytest.approx(696e9, rel=0.002)


def test_the_peer_has_the_parameters_of_a_plain_vit() -> None:
    """ViT-S/16 of standard blocks with QKV bias, 12D² + 13D each; patches, tokens, decoder and head as ours."""
    with torch.device("meta"):
        peer = EagerMae(config_of("S/16"))
    D, E, values = 384, 512, 6 * 16**2
    blocks = 12 * (12 * D**2 + 13 * D) + 8 * (12 * E**2 + 13 * E)
    ends = values * D + D + D + 2 * D + D * E + E + E + 2 * E + E * values + values
    assert sum(p.numel() for p in peer.parameters()) == blocks + ends


@pytest.mark.slow
def test_the_peer_learns_to_reconstruct() -> None:
    """A flat image is easy to reconstruct, so its loss must fall."""
    torch.manual_seed(0)
    model = EagerMae(TINY)
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    crops = torch.randn(8, 3, 1, 1).expand(8, 3, 16, 16).contiguous()
    history = []
    for _ in range(150):
        loss = model(crops)
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        history.append(loss.item())
    assert history[-1] < 0.3 * history[0]


def found(model: str, name: str, rate: float, of_peak: float | None = None) -> Measurement:
    return Measurement(model, name, StepSpeed(64, rate, 2.0), of_peak, 0.5)


def test_rows_compare_our_best_and_name_a_missing_peer() -> None:
    results = [
        found("S/16", "ours, compile none", 900, 0.25),
        found("S/16", "ours, compile blocks", 1500, 0.35),
        found("S/16", EAGER.name, 600, 0.15),
    ]
    by_peer = {row["peer_name"]: row for row in rows(results, on_gpu=True) if row["unit"] == "crops/s"}
    eager = by_peer[EAGER.name]
    assert (eager["ours"], eager["peer"], eager["ratio"], eager["goal"], eager["met"]) == (1500, 600, 2.5, 2.0, True)
    missing = by_peer[f"{PEERS[1].name} (not installed)"]
    assert (missing["peer"], missing["ratio"], missing["met"]) == (None, None, None)
    mfu = next(row for row in rows(results, on_gpu=True) if row["name"] == "S/16 MFU")
    assert (mfu["ours"], mfu["goal"], mfu["met"]) == (0.35, MFU_GOALS["S/16"], True)


def test_without_a_gpu_no_goal_is_met_or_missed() -> None:
    results = [found("L/8+", "ours, compile none", 2), found("L/8+", EAGER.name, 1)]
    assert [row["met"] for row in rows(results, on_gpu=False)] == [None] * 5
    assert rows(results, on_gpu=False)[-1]["goal"] == MFU_GOALS["L/8"]


@pytest.mark.parametrize(
    ("rates", "best"),
    [
        ({4: 10, 8: 18, 16: 30, 32: 31}, 32),  # gains to the end of the search
        ({4: 10, 8: 18, 16: 18.1, 32: 99}, 8),  # a doubling that hardly gains ends it
        ({4: 10, 8: None}, 4),  # what does not fit ends it
    ],
)
def test_the_search_doubles_while_it_gains(
    monkeypatch: pytest.MonkeyPatch, rates: dict[int, float | None], best: int
) -> None:
    def speed(peer: object, setting: StepSetting, seconds: float) -> StepSpeed | None:
        rate = rates[setting.batch]
        return StepSpeed(setting.batch, rate, 1.0) if rate else None

    monkeypatch.setattr(timing, "_speed", speed)
    setting = StepSetting(TINY, CPU, False, 4)
    assert timing.search_here(OURS, setting, Search(4, 32, 1.0), torch.get_num_threads()).batch == best


def test_a_first_batch_that_does_not_fit_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "_speed", lambda peer, setting, seconds: None)
    with pytest.raises(RuntimeError, match="ours: a batch of 4 does not fit on cpu"):
        timing.search_here(OURS, StepSetting(TINY, CPU, False, 4), Search(4, 32, 1.0), torch.get_num_threads())


@pytest.mark.parametrize("peer", [OURS, EAGER], ids=lambda c: c.name)
@pytest.mark.parametrize("bf16", [False, True])
def test_every_peer_takes_a_step(peer: object, bf16: bool) -> None:
    found = timing._speed(peer, StepSetting(TINY, CPU, bf16, 4), 0.01)
    assert found is not None
    assert found.crops_per_second > 0
