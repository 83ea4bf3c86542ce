"""Slow twins: the obvious version of each compiled or vectorised function, for the tests.

One section a subject. They read like the definition that they come from and know nothing of
the code that they check.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

# --- masks ---------------------------------------------------------------------------------


def mask_box_xywh(mask: NDArray[Any]) -> tuple[int, int, int, int]:
    """x_min, y_min, x_max - x_min, y_max - y_min (no +1) of a (H, W) mask; empty: zeros."""
    ys, xs = np.nonzero(mask)
    if not len(xs):
        return 0, 0, 0, 0
    return int(xs.min()), int(ys.min()), int(xs.max() - xs.min()), int(ys.max() - ys.min())


def mask_iou(one: NDArray[Any], two: NDArray[Any]) -> float:
    """Intersection over union of two (H, W) bool masks; 1.0 where both are empty."""
    union = np.logical_or(one, two).sum()
    return float(np.logical_and(one, two).sum() / union) if union else 1.0
