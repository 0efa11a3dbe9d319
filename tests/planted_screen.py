"""A small screen with planted pairs of genes, for tests of evaluation."""

from pathlib import Path

import numpy as np
import pandas as pd

CORRECT = ["--correct", "tvn", "--batch", "experiment", "--control", "treatment=EMPTY_control"]


def planted_screen(folder: Path) -> Path:
    """Two experiments of 12 genes in pairs of similar embeddings, 20 controls each, and a list of those pairs."""
    rng = np.random.default_rng(0)
    direction = 6 * np.repeat(rng.normal(size=(6, 8)), 2, axis=0)
    rows, features = [], []
    for batch, experiment in enumerate(("e1", "e2")):
        for gene in range(12):
            rows.append({"key": f"{experiment}-{gene}", "experiment": experiment, "gene": f"G{gene:02}",
                         "treatment": f"G{gene:02}_1"})  # fmt: skip
            features.append(direction[gene] + rng.normal(0, 0.3, 8) + 40 * batch)
        for control in range(20):
            rows.append({"key": f"{experiment}-c{control}", "experiment": experiment, "gene": "",
                         "treatment": "EMPTY_control"})  # fmt: skip
            features.append(rng.normal(0, 1, 8) + 40 * batch)
    table = pd.DataFrame(rows).join(pd.DataFrame(features, columns=[f"feature_{i}" for i in range(8)]))
    pairs = [(f"G{i:02}", f"G{i + 1:02}") for i in range(0, 12, 2)]
    lines = [*pairs, pairs[0][::-1], ("G00", "G00"), ("G00", ""), ("G00", "TP53")]
    (folder / "pairs.csv").write_text("entity1,entity2\n" + "".join(f"{a},{b}\n" for a, b in lines))
    table.to_parquet(folder / "wells.parquet")
    return folder


def recall(folder: Path, *more: str) -> list[str]:
    """Arguments that evaluate it."""
    return ["recall", str(folder / "wells.parquet"), "--pairs", str(folder / "pairs.csv"), *more]
