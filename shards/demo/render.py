"""Render one well of the demo assay, from a phenotype, batch effects and a random generator.

A cell is a stamp: six channels drawn around a nucleus, in sixteen orientations. A well is stamped with cells whose
directions follow a slow wave, then blurred, lit unevenly and imaged with few photons, as when light must not harm
the cells. Total stain per cell does not depend on the phenotype: shape and arrangement are informative, brightness is
not.

Shapes: N stamps, T stamp side, S well side, C = 6 channels (Hoechst, ConA, Phalloidin, Syto14, MitoTracker, WGA).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CHANNELS = 6
ORIENTATIONS = 16
RADIUS = 12.0  # of a cell, pixels
STAMP = 36  # side, pixels
STAIN = np.array([0.9, 1.5, 1.8, 1.6, 1.4, 0.9], np.float32)  # per cell area, by channel
EIGHT_BIT_GAIN, DARK_LEVEL = 45.0, 12.0

F32 = np.float32
Floats = NDArray[np.float32]  # single precision throughout: half the time


@dataclass(frozen=True)
class BatchEffects:
    """How one experiment's microscope and staining differ from another's."""

    blur: NDArray[np.float64]  # (C,) pixels
    gain: NDArray[np.float64]  # (C,)
    background: NDArray[np.float64]  # (C,)
    density: float
    tilt: NDArray[np.float64]  # (2,) log light per well side
    photons: NDArray[np.float64]  # (C,) per unit of stain


def draw_batch(rng: np.random.Generator, photons: float) -> BatchEffects:
    """Draw the batch effects of one experiment."""
    return BatchEffects(
        blur=rng.uniform(0.5, 1.0) * np.exp(rng.normal(0, 0.1, CHANNELS)),
        gain=np.exp(rng.normal(0, 0.2, CHANNELS)),
        background=rng.uniform(0.2, 0.5, CHANNELS),
        density=float(np.exp(rng.normal(0, 0.15))),
        tilt=rng.normal(0, 0.2, 2),
        photons=photons * np.exp(rng.normal(0, 0.2, CHANNELS)),
    )


def draw_stamps(phenotype: NDArray[np.float64], rng: np.random.Generator) -> Floats:
    """Cells of one treatment (N, C, T, T), each a little different, at evenly spaced orientations."""
    traits = (phenotype[:12] + rng.normal(0, 0.25, (ORIENTATIONS, 12))).astype(np.float32)
    (size, elongation, cell_size, offset, er, cortex, spacing, nucleolus, polarity, mito, golgi, cell_elongation) = (
        traits[:, i, None, None] for i in range(12)
    )
    y, x = np.mgrid[:STAMP, :STAMP].astype(np.float32) - STAMP / 2 + 0.5
    angle = _column(np.arange(ORIENTATIONS) / ORIENTATIONS * 2 * np.pi + rng.uniform(0, 0.2))
    u, v = np.cos(angle) * x + np.sin(angle) * y, np.cos(angle) * y - np.sin(angle) * x  # along and across the cell
    radius = _column(RADIUS * np.exp(rng.normal(0, 0.06, ORIENTATIONS)))
    cell_radius = radius * np.exp(0.05 * cell_size)
    nucleus_radius = 0.40 * radius * np.exp(0.09 * size)
    along = u - 0.25 * np.tanh(0.6 * offset) * cell_radius  # from the nucleus, which may sit off centre
    to_nucleus = _ellipse(along, v, nucleus_radius, np.exp(0.16 + 0.10 * elongation))
    to_edge = _ellipse(u, v, cell_radius, np.exp(0.16 + 0.09 * cell_elongation))
    nucleus, cell = _sigmoid((1 - to_nucleus) * 6), _sigmoid((1 - to_edge) * 8)
    cytoplasm = cell * (1 - nucleus)
    phase, turn = (_column(rng.uniform(0, 2 * np.pi, ORIENTATIONS)) for _ in range(2))
    golgi_side = np.where(_column(rng.random(ORIENTATIONS)) < _sigmoid(-1.2 * polarity), F32(1), F32(-1))
    stamps = np.stack(
        [
            nucleus,
            cytoplasm * _ring(to_edge, 0.55 + 0.1 * er, 0.22) + 0.12 * cytoplasm,
            cell * _actin(v, to_edge, _sigmoid(0.9 * cortex), 0.42 * RADIUS * np.exp(0.13 * spacing), phase),
            0.35 * cell + _nucleoli(along, v, nucleus_radius, 0.32 * np.exp(0.25 * nucleolus), turn),
            cytoplasm * _ring(to_edge, 0.62 + 0.1 * mito, 0.25) * _mitochondria(u, v, polarity, phase),
            _spot(u - golgi_side * (0.62 + 0.12 * golgi) * cell_radius, v, 0.16 * cell_radius) + 0.2 * cytoplasm,
        ],
        axis=1,
    )
    total = stamps.sum((2, 3), keepdims=True)
    scaled: Floats = stamps / total * (RADIUS**2 * STAIN)[:, None, None]
    return scaled


def draw_well(
    stamps: Floats, alignment: float, batch: BatchEffects, side: int, read_noise: float, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """One 8-bit image (C, S, S) of cells like `stamps`, aligned with their neighbours as much as `alignment` says."""
    from scipy.ndimage import gaussian_filter

    light = _cells(stamps, alignment, batch, side, rng)
    y, x = np.mgrid[:side, :side] / side - 0.5
    tilt = batch.tilt + rng.normal(0, 0.15, 2)
    lamp = np.exp(tilt[0] * x + tilt[1] * y).astype(np.float32)
    focus = batch.blur * np.exp(rng.normal(0, 0.12))
    background = batch.background * np.exp(rng.normal(0, 0.15, CHANNELS))
    for channel in range(CHANNELS):
        light[channel] = (gaussian_filter(light[channel], focus[channel]) + background[channel]) * lamp
    photons = batch.photons * np.exp(rng.normal(0, 0.2, CHANNELS))
    per_photon = (1 / photons).astype(np.float32)[:, None, None]
    deviation = np.sqrt(np.maximum(light, 0) * per_photon + F32(read_noise**2))
    seen = light + deviation * rng.standard_normal(light.shape, dtype=np.float32)
    gain = (batch.gain * np.exp(rng.normal(0, 0.2, CHANNELS)) * EIGHT_BIT_GAIN).astype(np.float32)
    pixels: NDArray[np.uint8] = np.clip(seen * gain[:, None, None] + DARK_LEVEL, 0, 255).astype(np.uint8)
    return pixels


def _cells(stamps: Floats, alignment: float, batch: BatchEffects, side: int, rng: np.random.Generator) -> Floats:
    """Stain (C, S, S): cells on a jittered lattice, turned along a slow wave across the well."""
    count = max(1, int(side**2 / (2.6 * RADIUS**2) * batch.density * np.exp(rng.normal(0, 0.15))))
    lattice = int(np.ceil(np.sqrt(count)))
    places = np.stack(np.meshgrid(np.arange(lattice), np.arange(lattice)), -1).reshape(-1, 2) + 0.5
    places = (places + rng.uniform(-0.45, 0.45, places.shape)) / lattice * side
    places = places[rng.permutation(len(places))[:count]]
    wave, heading = 2 * np.pi / (side * rng.uniform(0.8, 1.6)), rng.uniform(0, 2 * np.pi)
    along = places @ [np.cos(heading), np.sin(heading)]
    field = rng.uniform(0, 2 * np.pi) + np.sin(wave * along + rng.uniform(0, 2 * np.pi))
    scatter = rng.normal(0, 0.7 * np.exp(-alignment), count)
    angles = field + scatter + np.pi * (rng.random(count) < 0.5)
    orientations = np.round(angles / (2 * np.pi) * ORIENTATIONS).astype(int) % ORIENTATIONS
    brightness = np.exp(rng.normal(0, 0.2, (count, CHANNELS))).astype(np.float32)
    canvas = np.zeros((CHANNELS, side + STAMP, side + STAMP), np.float32)
    for (top, left), stamp, bright in zip(places.astype(int), orientations, brightness, strict=True):
        canvas[:, top : top + STAMP, left : left + STAMP] += stamps[stamp] * bright[:, None, None]
    half = STAMP // 2
    return canvas[:, half : half + side, half : half + side]


def _column(values: NDArray[np.float64]) -> Floats:
    """(N,) → (N, 1, 1), to spread over a stamp."""
    return values.astype(np.float32)[:, None, None]


def _sigmoid(z: Floats) -> Floats:
    value: Floats = np.reciprocal(1 + np.exp(-np.clip(z, -30, 30)))
    return value


def _ellipse(u: Floats, v: Floats, radius: Floats, elongation: Floats) -> Floats:
    """Distance from the centre in radii of an ellipse of constant area."""
    value: Floats = np.sqrt((u / (radius * elongation)) ** 2 + (v * elongation / radius) ** 2)
    return value


def _ring(distance: Floats, centre: Floats | float, width: float) -> Floats:
    value: Floats = np.exp(-(((distance - centre) / width) ** 2))
    return value


def _spot(u: Floats, v: Floats, radius: Floats) -> Floats:
    value: Floats = np.exp(-(u**2 + v**2) / (2 * radius**2))
    return value


def _actin(v: Floats, to_edge: Floats, cortical: Floats, period: Floats, phase: Floats) -> Floats:
    """Fibres along the cell, or a cortex at its edge."""
    fibres: Floats = 0.5 + 0.5 * np.cos(2 * np.pi * v / period + phase)
    value: Floats = (1 - cortical) * fibres + cortical * (1.6 * _ring(to_edge, 0.85, 0.14))
    return value


def _nucleoli(u: Floats, v: Floats, nucleus_radius: Floats, size: Floats, turn: Floats) -> Floats:
    """Two spots opposite each other in the nucleus."""
    du, dv = 0.45 * nucleus_radius * np.cos(turn), 0.45 * nucleus_radius * np.sin(turn)
    radius = size * nucleus_radius
    return _spot(u - du, v - dv, radius) + _spot(u + du, v + dv, radius)


def _mitochondria(u: Floats, v: Floats, polarity: Floats, phase: Floats) -> Floats:
    """A granular texture, denser at one end of the cell."""
    towards_end = u / np.sqrt(u**2 + v**2 + F32(1e-3))
    dense = np.clip(1 + 0.9 * np.tanh(0.7 * polarity) * towards_end, 0, None)
    grain = np.cos(2 * np.pi * u / (0.3 * RADIUS) + phase) * np.cos(2 * np.pi * v / (0.34 * RADIUS))
    value: Floats = dense * (1 + 0.6 * grain)
    return value
