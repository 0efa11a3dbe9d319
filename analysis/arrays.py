"""Type aliases of the arrays that this package works with."""

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Features = npt.NDArray[np.float32] | npt.NDArray[np.float64]
"""As they are stored; arithmetic is in float64, block by block."""
Mask = npt.NDArray[np.bool_]
Names = npt.NDArray[np.generic]
Rows = npt.NDArray[np.int64] | slice
