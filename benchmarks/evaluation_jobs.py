"""The jobs that `benchmarks.evaluation` measures: ours and each peer's on the same random data."""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Work = Callable[[], list[float]]
SOURCES = ("CORUM", "HuMAP", "Reactome", "StringDB")


def run(name: str, limit: float | None = None) -> None:
    """Prepare a job, time it, and print its time and memory as JSON. SIGALRM ends it after `limit` seconds of work."""
    try:
        work: Work = globals()[name]()
    except ImportError as error:
        print(json.dumps({"missing": str(error)}))
        return
    print(json.dumps({"base": _BASE, "load": round(os.getloadavg()[0], 2)}), flush=True)
    if limit is not None:
        signal.setitimer(signal.ITIMER_REAL, limit)
    start = time.perf_counter()
    result = work()
    seconds = time.perf_counter() - start
    signal.setitimer(signal.ITIMER_REAL, 0)
    print(json.dumps({"seconds": seconds, "gigabytes": (high_water() - _BASE) / 1e9, "result": result}))


def high_water(process: int | str = "self") -> float:
    """Peak memory of a process in bytes; 0 once it has ended. (`getrusage` counts its parent, too.)"""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((1024.0 * int(line.split()[1]) for line in lines if line.startswith("VmHWM")), 0.0)


_BASE = high_water()  # the interpreter and NumPy, before any data


def _genes(count: int) -> list[str]:
    names = sorted({gene for pairs in _pairs() for pair in pairs.pairs for gene in pair})
    return (names + [f"GENE{index}" for index in range(count)])[:count]


def _pairs() -> list[Any]:
    from analysis.recall.pairs import Pairs, read_pairs

    folder = Path(os.environ.get("SCALING_TEST_DATA", "")) / "annotations"
    if os.environ.get("SCALING_TEST_DATA") and folder.is_dir():
        return [read_pairs(folder / f"{source}.txt") for source in SOURCES]
    rng = np.random.default_rng(1)
    drawn = [{tuple(sorted(rng.choice(12_000, 2, replace=False))) for _ in range(40_000)} for _ in SOURCES]
    named = [tuple(sorted((f"GENE{a}", f"GENE{b}") for a, b in pairs)) for pairs in drawn]
    return [Pairs(source, pairs, len(pairs), 0, 0, 0) for source, pairs in zip(SOURCES, named, strict=True)]


def _map(genes: int, width: int = 1024) -> NDArray[np.float32]:
    rng = np.random.default_rng(0)
    embeddings = rng.standard_normal((genes, width), dtype=np.float32)
    embeddings += rng.standard_normal((1, width), dtype=np.float32) * rng.normal(0, 0.15, (genes, 1)).astype(np.float32)
    return embeddings


def recall_17k() -> Work:
    return _recall(17_000)


def recall_60k() -> Work:
    return _recall(60_000)


def _recall(count: int) -> Work:
    from analysis.recall.relationship_recall import relationship_recall

    genes, embeddings, sources = _genes(count), _map(count), _pairs()

    def work() -> list[float]:
        return [result.recall for result in relationship_recall(genes, embeddings, sources, replicates=0)]

    return work


def recall_17k_efaar() -> Work:
    import pandas as pd

    benchmarking = _efaar("benchmarking")
    bunch = importlib.import_module("sklearn.utils").Bunch
    genes, embeddings = _genes(17_000), _map(17_000)
    listed = {pairs.source: pd.DataFrame(pairs.pairs, columns=["entity1", "entity2"]) for pairs in _pairs()}
    benchmarking.get_benchmark_relationships = lambda _, source, filter=True: listed[source]  # ours are already checked
    data = bunch(features=pd.DataFrame(embeddings), metadata=pd.DataFrame({"gene": genes}))

    def work() -> list[float]:
        table = benchmarking.known_relationship_benchmark(
            data, "gene", benchmark_sources=list(SOURCES), recall_thr_pairs=[(0.05, 0.95)]
        )
        return [float(value) for value in table["recall_0.05_0.95"]]

    return work


def _efaar(module: str) -> Any:  # noqa: ANN401  (a module)
    """A module of EFAAR_benchmarking; missing modules that it does not need here are replaced by empty ones."""
    for name, attributes in {"geomloss": ["SamplesLoss"], "scvi": [], "scvi.model": ["SCVI"], "scanpy": []}.items():
        try:
            importlib.import_module(name)
        except ImportError:
            empty = types.ModuleType(name)
            for attribute in attributes:
                setattr(empty, attribute, object)
            sys.modules[name] = empty
    return importlib.import_module(f"efaar_benchmarking.{module}")


def _screen() -> tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.int64]]:
    """16,560 wells in 12 batches of 1,380, one in ten a control; features are correlated."""
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(1024, 1024)) * np.exp(-np.arange(1024) / 150)[:, None]
    embeddings = (rng.normal(size=(16_560, 1024)) @ mixing).astype(np.float32)
    batch = np.repeat(np.arange(12), 1380)
    return embeddings * (1 + 0.1 * batch[:, None]).astype(np.float32), rng.random(16_560) < 0.1, batch


def _sample_cosines(corrected: NDArray[Any]) -> list[float]:
    rows = corrected[:: len(corrected) // 40].astype(np.float64)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return [float(value) for value in (rows @ rows.T)[0]]


def tvn() -> Work:
    from analysis.embeddings.corrections import fit_tvn

    embeddings, control, batch = _screen()
    return lambda: _sample_cosines(fit_tvn(embeddings, control, batch).apply(embeddings, batch))


def tvn_efaar() -> Work:
    import pandas as pd

    efaar = _efaar("efaar")
    embeddings, control, batch = _screen()
    wells = pd.DataFrame({"treatment": np.where(control, "EMPTY_control", "gene"), "batch": batch})
    double = embeddings.astype(np.float64)  # float32 loses accuracy here
    return lambda: _sample_cosines(efaar.tvn_on_controls(double, wells, "treatment", "EMPTY_control", "batch"))


def _labelled() -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    rng = np.random.default_rng(0)
    label = np.repeat(np.arange(2000), 4)
    return rng.normal(size=(2000, 384))[label] + 3 * rng.normal(size=(8000, 384)), label


def precision() -> Work:
    from analysis.retrieval.average_precision import group_average_precision

    features, label = _labelled()

    def work() -> list[float]:
        result, _, _ = group_average_precision(features, label)
        return [float(result.mean()), *map(float, result[:50])]

    return work


def precision_copairs() -> Work:
    import pandas as pd

    copairs = importlib.import_module("copairs.map")
    features, label = _labelled()
    wells = pd.DataFrame({"label": label})

    def work() -> list[float]:
        table = copairs.average_precision(wells, features, ["label"], [], [], ["label"], progress_bar=False)
        result = table["average_precision"].to_numpy()
        return [float(result.mean()), *map(float, result[:50])]

    return work


def _regression() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(1024, 1024)) * np.exp(-np.arange(1024) / 170)[:, None]
    features = rng.normal(size=(16_560, 1024)) @ mixing + 0.1 * rng.normal(size=(16_560, 1024))
    features = (features - features.mean(axis=0)) / features.std(axis=0)
    signal = features @ (rng.normal(size=1024) * (rng.random(1024) < 0.2))
    target = 1.2 * signal / signal.std() + rng.normal(size=16_560)
    return features, (target - target.mean()) / target.std()


def elastic_net() -> Work:
    from analysis.cellprofiler.elastic_net import ElasticNetFolds

    features, target = _regression()
    folds = ElasticNetFolds(features)  # once for all 955 targets, so not part of the time of one
    folds.fit(features[:, 0] + np.random.default_rng(1).normal(size=len(features)))  # compiles

    def work() -> list[float]:
        fitted = folds.fit(target)
        return [fitted.ratio, fitted.alpha]

    return work


def elastic_net_sklearn() -> Work:
    models = importlib.import_module("sklearn.linear_model")
    features, target = _regression()

    def work() -> list[float]:
        model = models.ElasticNetCV(l1_ratio=[0.1, 0.6, 0.9, 0.95, 0.99], cv=5).fit(features, target)
        return [float(model.l1_ratio_), float(model.alpha_)]

    return work
