"""The arrays that evaluation is given: their types, and what is asked of them before anything is computed.

Legend: W wells, D embedding width.
"""

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
Names = npt.NDArray[np.generic]
Rows = npt.NDArray[np.int64] | slice
