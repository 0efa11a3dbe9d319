"""The page's headline: what training adds to recall, beside what placebos recall."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from analysis.page.html import number, table, text

HEAD = ("source", "placebo", "recall", "95% interval", "chance", "best model", "its recall", "share over chance", "")
ABOUT = (
    "The gain is the recall of a trained network less that of its own initialisation: the same network and seed, "
    "before its first step. Its interval covers complexes and genes, and seeds where there are several, as both are "
    "measured on the same pairs. An untrained network of the same size has the same cost per crop, so the gain is of "
    "training alone. Of a network that continues another cell's training, it is of both trainings, as its compute is. "
    "Where a recipe gives initial weights, such as ImageNet's, the initialisation has them, and the gain is over them."
)
PLACEBOS = (
    "Placebos know no biology. What one of them recalls, a model need not have learned. A placebo is marked where it "
    "reaches half of the best model's recall over chance and its interval excludes chance."
)


@dataclass(frozen=True)
class TrainingGain:
    """What the page says of gains and placebos."""

    says: Sequence[str]  # a sentence per source
    missing: Sequence[str] = ()  # why some gains are not known
    warnings: Sequence[str] = ()  # of placebos
    placebos: Sequence[Mapping[str, Any]] = ()  # source, placebo, recall, low, high, chance, model, model_recall, ...
    image: bytes | None = None  # a PNG: gain against compute


def training_gain(gain: TrainingGain | None) -> str:
    """The section; empty while no trained cell is evaluated."""
    if gain is None:
        return ""
    warned = "".join(f'<p class="warn">{text(warning)}.</p>' for warning in gain.warnings)
    said = "".join(f"<li>{text(sentence)}</li>" for sentence in gain.says)
    missing = "".join(f'<p class="soft">Not known for {text(reason)}.</p>' for reason in gain.missing)
    alt = "Recall of trained networks and of their own initialisation against compute, and the gain with intervals"
    image = base64.b64encode(gain.image).decode() if gain.image else ""
    plot = f'<img src="data:image/png;base64,{image}" width="880" alt="{alt}">' if image else ""
    return (
        f'<section><h2 id="gain">What training adds</h2>{warned}<ul>{said}</ul>{missing}{plot}'
        f'<p class="soft">{ABOUT}</p>{_placebos(gain.placebos)}</section>'
    )


def _placebos(rows: Sequence[Mapping[str, Any]]) -> str:
    if not rows:
        return ""
    return f'<h3>Placebos</h3>{table(HEAD, map(_row, rows))}<p class="soft">{PLACEBOS}</p>'


def _row(row: Mapping[str, Any]) -> str:
    share = row["share"] if math.isfinite(row["share"]) else None
    mark = '<span class="warn">half or more</span>' if row["suspect"] else ""
    return (
        f"<tr><td>{text(row['source'])}</td><td>{text(str(row['placebo']).replace('_', ' '))}</td>"
        f'{number(row["recall"])}<td class="number">{row["low"]:.3f} – {row["high"]:.3f}</td>{number(row["chance"])}'
        f"<td>{text(row['model'])}</td>{number(row['model_recall'])}{number(share, '.0%')}<td>{mark}</td></tr>"
    )
