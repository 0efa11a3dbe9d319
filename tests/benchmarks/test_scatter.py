"""Simulated grids with scatter between architectures: their widths needed, and that intervals without it miss."""

import numpy as np
import pytest

from benchmarks.scatter import CONFIDENCE, SCATTERS, grid, line, measured, plateau, power_law, straight


def test_the_width_needed_is_that_of_known_variances() -> None:
    """Without scatter: the textbook's standard error of a slope with known noise."""
    study = grid(0)
    assert study.scatter == SCATTERS[0] == 0
    u = np.log10(study.x)
    slope, run = study.needed(straight(study.x, 10), straight(study.place, 10)[0], 1)
    error = study.noise / np.sqrt(np.sum((u - u.mean()) ** 2))
    assert slope == pytest.approx(1.6449 * error, rel=1e-4)
    assert run > 1.6449 * study.noise


def test_scatter_widens_what_is_needed_for_a_new_architecture() -> None:
    for seed in range(10):
        study = grid(seed)
        design, row = straight(study.x, 10), straight(study.place, 10)[0]
        new, known = (study.needed(design, row, 1, name)[1] for name in (None, study.known))
        assert new > 1.6449 * np.hypot(study.scatter, study.noise)
        assert 1.6449 * study.noise < known <= new * (1 + 1e-9)
        assert 3 <= len(set(study.names)) <= 8
        assert study.place >= study.x.max()


def test_told_architectures_cover_where_independent_runs_do_not() -> None:
    methods = {told: lambda study, told=told: line(study, told) for told in ("component", "")}
    found = {row["name"]: row["ours"] for row in measured(methods, 100)}
    told, untold = (np.mean([found[f"{name}: slope, scatter {s:.1%}"] for s in SCATTERS[3:]]) for name in methods)
    assert told > untold + 0.1
    assert abs(told - CONFIDENCE) < 0.1


def test_a_plateau_and_a_known_architecture_are_measured() -> None:
    study = grid(3)
    for outcome in (
        plateau(study, "power_offset", "component"),
        power_law(study, "power_law", "component", known=True),
    ):
        assert 0.1 < outcome.run_width < 10
