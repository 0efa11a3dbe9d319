"""The paper's published numbers as tables, with the compute behind them as far as it is known."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from analysis.compute.flops import CONVENTIONS, VitMae, compute

if TYPE_CHECKING:
    import pandas as pd

REFERENCE = Path(__file__).parent

PAPER_MODELS = {
    "mae_vit_s16": VitMae(width=384, depth=12, heads=6, patch=16),
    "mae_vit_b16": VitMae(width=768, depth=12, heads=12, patch=16),
    "mae_vit_b8": VitMae(width=768, depth=12, heads=12, patch=8),
    "mae_vit_l16": VitMae(width=1024, depth=24, heads=16, patch=16),
    "mae_vit_l8_plus": VitMae(width=1024, depth=24, heads=16, patch=8),
}

# Crops seen by a masked autoencoder, as (fewest, most). Supplement A.1 and A.2: RxRx3 holds 2.2 M images and was seen
# for 50 epochs. RPI-52M was seen for "up to 50 epochs" with early stopping, epochs not stated: between one and 50.
# A.3: L/8+ saw over 3.5 G crops of RPI-93M.
IMAGES = {"RxRx3": 2.2e6, "RPI-52M": 52e6, "RPI-93M": 93e6}  # supplement A.1
CROPS_SEEN = {"RxRx3": (110e6, 110e6), "RPI-52M": (52e6, 2.6e9), "RPI-93M": (3.5e9, 3.5e9)}


def table6() -> pd.DataFrame:
    """Table 6, recall per model, training set and source, with crops seen and compute as intervals.

    Columns: family, model, key, train_dataset, benchmark, recall as published; crops_low and crops_high; for each
    convention compute_NAME_low and compute_NAME_high; pinned, true where the interval is a point. Crops and compute
    are given only for masked autoencoders (otherwise NaN): no convention here counts a DenseNet or a U-net.
    """
    import pandas as pd

    table = pd.read_csv(REFERENCE / "table6_recall.csv")
    seen = [
        CROPS_SEEN[dataset] if key in PAPER_MODELS else (float("nan"), float("nan"))
        for key, dataset in zip(table["key"], table["train_dataset"], strict=True)
    ]
    table["crops_low"], table["crops_high"] = ([ends[end] for ends in seen] for end in (0, 1))
    for convention in CONVENTIONS:
        for end in ("low", "high"):
            table[f"compute_{convention}_{end}"] = [
                compute(convention, PAPER_MODELS[key], crops) if key in PAPER_MODELS else float("nan")
                for key, crops in zip(table["key"], table[f"crops_{end}"], strict=True)
            ]
    table["pinned"] = table["crops_low"] == table["crops_high"]
    return table
