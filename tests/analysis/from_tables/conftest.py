"""Tables of wells with known complexes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

COMPLEXES, SIZE, WELLS = 20, 4, 3


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Wells of 80 genes in complexes and of controls: seen well, hardly, and seen well by another seed."""
    rng = np.random.default_rng(0)
    genes = [f"g{number:02d}" for number in range(COMPLEXES * SIZE)]
    centres = rng.normal(size=(COMPLEXES, 16))
    rows = [{"plate": f"p{n}", "gene": gene, "well": f"{chr(65 + i // 10)}{i % 10 + 1:02d}"}
            for n in range(WELLS) for i, gene in enumerate([*genes, *[""] * 16])]  # fmt: skip
    table = pd.DataFrame(rows).assign(treatment=lambda t: t["gene"].replace("", "control"))
    number = np.array([genes.index(gene) // SIZE if gene else -1 for gene in table["gene"]])
    signal = np.where(number[:, None] >= 0, centres[number], 0.0)
    for name, scale in (("trained", 1.0), ("initial", 0.1), ("other", 1.0)):
        features = scale * signal + rng.normal(size=signal.shape)
        columns = {f"feature_{i}": features[:, i] for i in range(16)}
        table.assign(**columns).to_parquet(tmp_path / f"{name}.parquet")
    pairs = [f"{genes[SIZE * c + a]},{genes[SIZE * c + b]}" for c in range(COMPLEXES) for a in range(SIZE)
             for b in range(a)]  # fmt: skip
    (tmp_path / "pairs.csv").write_text("\n".join(["entity1,entity2", *pairs]) + "\n")
    return tmp_path
