"""The text of a first recipe for a shard set: small models that this machine can train, with a comment at each choice.

Pure: what is known of the set and the machine goes in, YAML comes out.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import yaml

from harness.authoring.set_facts import SetFacts

CROPS = (256, 128, 64, 32, 16)  # sides that patches of 8 and 16 divide
STEPS = 1000  # of a first run on processors, about: minutes
MOST_AT_ONCE = 8  # cells on processors
NESTED = 4  # experiments from which there are two sizes of dataset
PLAIN = re.compile(r"[A-Za-z_/][A-Za-z0-9_./+-]*")


@dataclass(frozen=True)
class Machine:
    """What a first study can count on."""

    cores: int
    gpus: int


@dataclass(frozen=True)
class _Scale:
    """The size of a first study: on processors a miniature, on a GPU ViT-S."""

    crop: int
    models: tuple[str, ...]
    decoder: tuple[int, int, int]  # width, depth, heads
    layer_scale: float
    batch: int
    steps: int
    learning_rate: str
    precision: str

    @property
    def patch(self) -> int:
        """Side of a patch: at least four to a side of the crop, so that some are seen where most are masked."""
        return min(16, self.crop // 4)


def _scale(facts: SetFacts, machine: Machine) -> _Scale:
    fits = [side for side in CROPS if side <= facts.side]
    on_gpu = machine.gpus > 0
    crop = next(side for side in fits if side <= (256 if on_gpu else 64))
    if on_gpu:
        models = ("width: 384, depth: 12, heads: 6", "width: 768, depth: 12, heads: 12")
        return _Scale(crop, models, (512, 8, 16), 1e-4, _batch(facts, 256), 20 * STEPS, "3e-4", "bf16")
    models = ("width: 48, depth: 2, heads: 3", "width: 96, depth: 4, heads: 6")
    return _Scale(crop, models, (64, 1, 4), 0.1, _batch(facts, 16), STEPS, "1e-3", "fp32")


def _batch(facts: SetFacts, most: int) -> int:
    """The largest power of two up to `most` that the smallest dataset fills in a few epochs."""
    return max(size for size in (1, 2, 4, 8, 16, 32, 64, 128, 256) if size <= min(most, 8 * facts.wells["train"]))


def draft(facts: SetFacts, name: str, machine: Machine) -> str:
    """A recipe for the set, as commented YAML that `load` reads and `check` finds nothing wrong with."""
    scale = _scale(facts, machine)
    parts = [
        _head(facts, name), _datasets(facts), _models(scale), _mae(facts, scale), _train(facts, scale),
        _grid(facts, scale), _embed(facts), _evaluate(facts), _launch(machine),
    ]  # fmt: skip
    return "\n".join(parts)


def scalar(text: str) -> str:
    """A text as YAML reads it back: plain where it can be, else quoted."""
    if PLAIN.fullmatch(text) and yaml.safe_load(text) == text:
        return text
    return '"' + "".join(c if c.isprintable() and c not in '"\\' else f"\\U{ord(c):08x}" for c in text) + '"'


def _listed(names: tuple[str, ...], most: int = 8) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most:,} others" if len(names) > most else "")


def _head(facts: SetFacts, name: str) -> str:
    train, validation = (facts.experiments[split] for split in ("train", "validation"))
    return f"""\
# A first study of {facts.place}, written by `python -m harness.sweep init`. Every field: docs/recipe.md.
#
# training     {facts.wells["train"]:,} images of {len(train):,} experiments: {_printed(_listed(train))}
# validation   {facts.wells["validation"]:,} images of {len(validation):,} experiments: {_printed(_listed(validation))}
# channels     {len(facts.channels)}, {facts.pixel_type}: {_printed(", ".join(facts.channels))}
#
# python -m harness.sweep check THIS_FILE   # then plan, then run (leave the verb out)
name: {name}
output: runs/{name} # logs, weights, embeddings, and report/report.html
"""


def _printed(text: str) -> str:
    """On one line of a comment, whatever an experiment is called."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _is_nested(facts: SetFacts) -> bool:
    return len(facts.experiments["train"]) >= NESTED


def _datasets(facts: SetFacts) -> str:
    place = scalar(str(facts.place))
    half = f"  half: {{shards: {place}, fraction: 0.5}} # of the experiments\n" if _is_nested(facts) else ""
    head = "datasets: # sizes to compare: nested fractions of the training experiments"
    return f"{head}\n{half}  all: {{shards: {place}}}\n"


def _models(scale: _Scale) -> str:
    small, large = scale.models
    return f"""\
models: # networks to compare; a smaller patch costs more and usually recalls more
  vit_s{scale.patch}: {{size: S, patch: {scale.patch}, {small}}}
  vit_b{scale.patch}: {{size: B, patch: {scale.patch}, {large}}}
"""


def _mae(facts: SetFacts, scale: _Scale) -> str:
    width, depth, heads = scale.decoder
    names = ", ".join(map(scalar, facts.channels))
    return f"""\
mae:
  crop: {scale.crop} # pixels; the smallest image has {facts.side:,}
  channels: {len(facts.channels)}
  channel_names: [{names}]
{_value_range(facts)}
  decoder_width: {width}
  decoder_depth: {depth}
  decoder_heads: {heads}
  layer_scale: {scale.layer_scale:g} # 1e-4 is for deep networks and long runs
"""


def _value_range(facts: SetFacts) -> str:
    if facts.pixel_type == "uint8":
        return "  value_range: null # pixels have 8 bits and are divided by 255"
    if not facts.pixel_ranges:
        return "  value_range: null # 65,535; a set that is built again has proposals by channel (docs/datasets.md)"
    each = ", ".join(f"{scalar(name)}: {facts.pixel_ranges[name].spread}" for name in facts.channels)
    return (
        "  # what most 16-bit pixels of an image differ by, from the 5th to the 95th percentile (docs/datasets.md)\n"
        f"  value_range: {{{each}}}"
    )


def _train(facts: SetFacts, scale: _Scale) -> str:
    epochs = min(1_000_000, max(1, -(-scale.steps * scale.batch // facts.wells["train"])))
    return f"""\
train:
  epochs: {epochs} # passes, one crop of each image: {epochs * facts.wells["train"] // scale.batch:,} steps
  batch: {scale.batch} # crops
  learning_rate: {scale.learning_rate} # peak; `python -m harness.sweep tune` finds the best one
  optimiser: {{name: adamw}} # lion, the default, wants batches of thousands
  precision: {scale.precision}{"" if scale.precision == "bf16" else " # bf16 is for GPUs"}
  validations: 10
  validation_wells: {min(facts.wells["validation"], 4096)}
  validation_view: {"tiles # all of each image, as there are few" if facts.wells["validation"] < 64 else "centre"}
"""


def _grid(facts: SetFacts, scale: _Scale) -> str:
    names = "half, all" if _is_nested(facts) else "all"
    return f"""\
grid:
  models: [vit_s{scale.patch}, vit_b{scale.patch}]
  datasets: [{names}]
  seeds: [0] # more seeds show how much of a difference is chance
  untrained: true # each network's own initialisation, which training must beat
"""


def _embed(facts: SetFacts) -> str:
    return f"embed: {{shards: {scalar(str(facts.place))}}} # every image, cut into tiles, averaged\n"


def _evaluate(facts: SetFacts) -> str:
    """Commented out: only its author knows the relationship lists."""
    control, most = facts.control, ", ".join(f"{value or '(blank)'} ({count:,})" for value, count in facts.treatments)
    column, value = (control.column, control.value) if control else ("treatment", "...")
    said = (
        f"controls: {control.wells:,} images whose {control.column} is {_printed(control.value)}" if control
        else f"controls: none was recognised; the column treatment has {_printed(most) or 'no values'}"
    )  # fmt: skip
    return f"""\
# Recall of known relationships. It needs lists with the header entity1,entity2, two control images in each experiment,
# and a column of genes, of which `gene` has {facts.genes:,}. {said}
# evaluate:
#   control: {{column: {column}, value: {scalar(value)}}}
#   gene_column: gene
#   relationships: {{CORUM: CORUM.csv}}
"""


def _launch(machine: Machine) -> str:
    parallel = machine.gpus or min(MOST_AT_ONCE, machine.cores)  # small models gain little from a second thread
    what = f"{machine.gpus} GPUs" if machine.gpus else "no GPU"
    return f"""\
launch: # this machine: {machine.cores} cores, {what}
  executor: local
  parallel: {parallel} # grid cells at a time
  gpus_per_node: {machine.gpus}
  cpus_per_task: {max(1, machine.cores // parallel) if machine.gpus else 1}
  loader_workers: {max(1, machine.cores // parallel // 2) if machine.gpus else 1}

profiles: # --profile NAME; without it, slurm where sbatch answers, else laptop
  laptop: {{}}
  slurm: {{launch: {{executor: slurm, parallel: 16, gpus_per_node: 1, cpus_per_task: 8, loader_workers: 6}}}}
"""
