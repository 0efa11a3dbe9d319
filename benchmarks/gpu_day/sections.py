"""The sections of the day, the most valuable first, and how long each takes on an H100."""

from __future__ import annotations

from benchmarks.gpu_day import parity, steps, study
from benchmarks.gpu_day.day import Section
from benchmarks.peers import EAGER, OURS, PEERS, Peer
from harness.models.config import named_config

ENCODERS = ("S/16", "L/16")
START = 15.0  # seconds of a process until it measures
EAGER_SECONDS, COMPILED_SECONDS = 60.0, 120.0  # of one search of the best batch
SLOW_WAYS = {"whole": 200.0, "reduce-overhead": 200.0}


def sections(small: bool) -> list[Section]:
    """All of them, in the order of their value; `small` ones have one miniature network."""
    models = steps.SMALL_MODELS if small else steps.MODELS
    ways = steps.ways()
    usual = [way for way in ways if way not in SLOW_WAYS]
    first = [
        Section("device", START, steps.device),
        Section("attention kernels", START + 20, parity.attention),
        Section("optimisers", START + 10, parity.optimisers),
        Section("fp32 loss on CPU and device", START + 30, parity.losses),
        *(Section(f"compiled {way}", START + 45, parity.compiled(way)) for way in ways if way != "none"),
    ]
    basic = [section for model in models for section in (*_ours(model, usual), _step(model, EAGER))]
    around = [
        Section("data wait", START + 60, study.data_wait),
        Section("checkpoint", START + 40, study.checkpoint("miniature" if small else "L/8")),
        *_embeddings(small),
    ]
    slow = [section for model in models for section in _ours(model, [way for way in ways if way in SLOW_WAYS])]
    profiles = [Section(f"profile {model}", START + 60, steps.profiled(model)) for model in models]
    others = [section for peer in PEERS if peer is not EAGER for section in _others(peer, models)]
    return [*first, *basic, *around, *slow, *others, *profiles]


def _ours(model: str, ways: list[str]) -> list[Section]:
    return [
        Section(steps.section_name(model, steps.our_name(way)), _seconds(way), steps.step(model, OURS, way))
        for way in ways
    ]


def _seconds(way: str) -> float:
    return START + SLOW_WAYS.get(way, EAGER_SECONDS if way == "none" else COMPILED_SECONDS)


def _step(model: str, peer: Peer) -> Section:
    return Section(steps.section_name(model, peer.name), START + EAGER_SECONDS, steps.step(model, peer))


def _others(peer: Peer, models: tuple[str, ...]) -> list[Section]:
    if not peer.is_installed:
        return [Section(peer.name, START, steps.missing(peer))]
    return [_step(model, peer) for model in models]


def _embeddings(small: bool) -> list[Section]:
    if small:
        return [Section("embed miniature", START, study.embedding(48, 1, 3))]
    shapes = ((name, named_config(name)) for name in ENCODERS)
    return [Section(f"embed {name}", START + 60, study.embedding(c.width, c.depth, c.heads)) for name, c in shapes]
