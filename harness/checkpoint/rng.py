"""Save and restore the global random generators of torch, NumPy and Python, as tensors for a checkpoint.

Training does not need them: crops, masks and dropped paths are pure functions of (seed, step). They are saved so that
other code that draws from them (a library, a new augmentation) continues with the same random numbers.
"""

from __future__ import annotations

import math
import random
from typing import Any

import numpy as np
import torch
from torch import Tensor

NO_GAUSS = float("nan")
WORD, PLACES = 2**32 - 1, 624  # of the Mersenne twister, in Python as in NumPy
HIGHEST = {
    "python": torch.tensor([3, *[WORD] * PLACES, PLACES]),  # version, words, place
    "numpy": torch.tensor(WORD),
    "numpy_position": torch.tensor([PLACES, 1]),  # place, whether a second normal number is kept
}


def generator_states(device: torch.device) -> dict[str, Tensor]:
    """Return the state of every global generator of this process."""
    version, words, gauss = random.getstate()
    numpy: dict[str, Any] = np.random.get_state(legacy=False)
    states = {
        "torch": torch.get_rng_state(),
        "python": torch.tensor([version, *words], dtype=torch.int64),
        "python_gauss": torch.tensor(NO_GAUSS if gauss is None else gauss, dtype=torch.float64),
        "numpy": torch.from_numpy(numpy["state"]["key"].astype(np.int64)),
        "numpy_position": torch.tensor([numpy["state"]["pos"], numpy["has_gauss"]], dtype=torch.int64),
        "numpy_gauss": torch.tensor(numpy["gauss"], dtype=torch.float64),
    }
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def restore_generators(states: dict[str, Tensor], device: torch.device) -> None:
    """Restore every global generator to the state that `generator_states` returned; with no states, none.

    Raises:
        ValueError: a state that its generator cannot have; the message names it. Any of them may then be restored.
    """
    if not states:
        return
    for name, highest in HIGHEST.items():
        value = states[name]
        if not bool(((value >= 0) & (value <= highest.to(value.dtype))).all()):
            raise ValueError(f"generators.{name} holds numbers that this generator cannot have")
    if not math.isfinite(float(states["numpy_gauss"])) or math.isinf(float(states["python_gauss"])):
        raise ValueError("generators.numpy_gauss or python_gauss is infinite")
    version, *words = states["python"].tolist()
    gauss = float(states["python_gauss"])
    position, has_gauss = states["numpy_position"].tolist()
    key = states["numpy"].numpy().astype(np.uint32)
    try:
        torch.set_rng_state(states["torch"])
        random.setstate((version, tuple(words), None if np.isnan(gauss) else gauss))
        np.random.set_state(("MT19937", key, position, has_gauss, float(states["numpy_gauss"])))
        if device.type == "cuda":
            torch.cuda.set_rng_state(states["cuda"], device)
    except (RuntimeError, ValueError, TypeError, OverflowError) as error:
        raise ValueError(f"generators: a state that its generator refuses ({error})") from error
