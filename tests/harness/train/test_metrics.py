"""The log tells speed, waiting, memory and the share of the peak, survives a resume, and never asks the device."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import torch

from analysis.compute.flops import VitMae, flops_per_crop
from harness.storage.train_log import read_log
from harness.train import metrics as metrics
from harness.train.metrics import MetricsLogger, Throughput

CPU = torch.device("cpu")


class Clock:
    """A clock that a test moves."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(time, "perf_counter", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_a_row_by_hand(tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten steps of 512 crops in 8 s, 2 s of them waiting: 640 crops/s, .8 s a step, a quarter waiting. At 100 GFLOP a
    crop on four devices of 100 TFLOP/s that is 64 of 400 TFLOP/s."""
    monkeypatch.setattr(metrics, "peak_flops", lambda device: 100e12)
    log = MetricsLogger(tmp_path, "cell", 100, 0, 512, Throughput(CPU, 4, 100e9))
    with log.waiting():
        clock.now += 2
    clock.now += 6
    log.advance(10, {"loss": 0.5}, 10)
    log.close()
    (row,) = read_log(tmp_path / "train.jsonl")
    assert (row["kind"], row["step"], row["loss"]) == ("train", 10, 0.5)
    assert row["crops_per_second"] == pytest.approx(640)
    assert row["step_seconds"] == pytest.approx(0.8)
    assert row["data_wait"] == pytest.approx(0.25)
    assert row["mfu"] == pytest.approx(0.16)
    assert row["peak_memory_gb"] > 0.02


# What happens between the steps of one second each; a row follows every fourth step. All rates must be those of steps.
PAUSES = {
    "a validation after a row": {4: 1000.0},
    "a validation between rows": {6: 50.0},
    "a validation at every step": dict.fromkeys(range(1, 17), 3.0),
    "a row that spans several validations": {5: 10.0, 6: 20.0, 7: 30.0},
    "a save just before a row": {7: 9.0, 11: 9.0},
}


@pytest.mark.parametrize("pauses", PAUSES.values(), ids=PAUSES)
@pytest.mark.parametrize("first", [0, 100], ids=["from the start", "after a resume"])
def test_rates_are_those_of_the_steps_alone(tmp_path: Path, clock: Clock, pauses: dict[int, float], first: int) -> None:
    """Steps of 1 s on 8 crops, a quarter of it waiting: 8 crops/s in every row, whatever happens in between."""
    log = MetricsLogger(tmp_path, "cell", 1000, first, 8)
    clock.now += 77  # the loader starts, and an interrupted validation is repeated
    log.start_clock()
    for step in range(1, 17):
        with log.waiting():
            clock.now += 0.25
        clock.now += 0.75
        if step % 4 == 0:
            log.advance(4, {}, first + step)
        with log.outside_steps():
            clock.now += pauses.get(step, 0.0)
    log.close()
    rows = read_log(tmp_path / "train.jsonl")
    assert [row["crops_per_second"] for row in rows] == pytest.approx([8.0] * 4)
    assert [row["data_wait"] for row in rows] == pytest.approx([0.25] * 4)
    spent = [step + sum(seconds for at, seconds in pauses.items() if at < step) for step in (4, 8, 12, 16)]
    left = [spent[i] / step * (1000 - first - step) for i, step in enumerate((4, 8, 12, 16))]
    assert [row["seconds_left"] for row in rows] == pytest.approx(left)


def test_a_pause_that_ends_in_an_error_is_left_out_too(tmp_path: Path, clock: Clock) -> None:
    log = MetricsLogger(tmp_path, "cell", 100, 0, 8)

    def fail() -> None:
        with log.outside_steps():
            clock.now += 1000
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    clock.now += 2
    log.advance(4, {}, 4)
    log.close()
    (row,) = read_log(tmp_path / "train.jsonl")
    assert row["step_seconds"] == pytest.approx(0.5)


def test_without_a_known_peak_there_is_no_mfu(tmp_path: Path) -> None:
    log = MetricsLogger(tmp_path, "cell", 10, 0, 8, Throughput(CPU, 1, 1e9))
    log.advance(1, {}, 1)
    log.close()
    (row,) = read_log(tmp_path / "train.jsonl")
    assert "mfu" not in row
    assert "peak_memory_gb" in row


def test_the_papers_rate_is_a_tenth_of_an_a100() -> None:
    """3.5 G crops in 20,000 A100 hours are 48.6 crops/s; at 696 GFLOP a crop that is about 11% of 312 TFLOP/s."""
    cost = flops_per_crop("mae_train", VitMae(width=1024, depth=24, heads=16, patch=8))
    assert 48.6 * cost / 312e12 == pytest.approx(0.108, abs=0.002)


def test_a_resumed_log_continues_where_the_checkpoint_stands(tmp_path: Path) -> None:
    log = MetricsLogger(tmp_path, "cell", 100, 0, 8)
    positions = {0: 0}
    for step in (10, 20, 30):
        log.advance(10, {"loss": 1.0 / step}, step)
        positions[step] = log.position()
    log.close()
    with (tmp_path / "train.jsonl").open("a") as file:
        file.write('{"kind": "train", "st')  # killed while writing
    again = MetricsLogger(tmp_path, "cell", 100, 20, 8, log_bytes=positions[20])
    again.advance(10, {"loss": 0.5}, 30)
    again.close()
    rows = [json.loads(line) for line in (tmp_path / "train.jsonl").read_text().splitlines()]
    assert [(row["step"], row["loss"]) for row in rows] == [(10, 0.1), (20, 0.05), (30, 0.5)]


def test_a_log_that_lost_its_end_continues_after_its_last_whole_row(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text('{"kind": "train", "step": 1}\n{"kind": "tr')
    log = MetricsLogger(tmp_path, "cell", 100, 20, 8, log_bytes=1000)
    log.advance(10, {"loss": 0.5}, 30)
    log.close()
    rows = [json.loads(line) for line in (tmp_path / "train.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 30]


def test_tensorboard_gets_what_the_log_gets(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = MetricsLogger(tmp_path, "cell", 100, 0, 8, Throughput(CPU, 1, 1e9))
    log.advance(10, {"loss": 0.25}, 10)
    log.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert {"train/loss", "train/step_seconds", "train/peak_memory_gb"} <= set(events.Tags()["scalars"])
    assert events.Scalars("train/loss")[0].value == 0.25
