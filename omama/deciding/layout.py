"""Where the frame's other objects say that an object is: their places in both views, together.

Objects keep their arrangement from one view to the other. An affine map from source centres to the
centres of what the *other* objects of the frame choose is fitted in closed form, for every object
one without itself (or it would confirm itself), and tells where to expect it. Rough, as affine maps
of a scene with depth are: off by some 0.08 of the image's width where all others are right, so it
favours a region, not a spot. Legend as in `clips`: T frames, O objects, K candidates.
"""

import numpy as np

from egoexo_tools.arrays import Float32, Float64

SPREAD = 0.17
"""Of the closeness, in shares of the image's width; 0.14 to 0.2 did equally well on val."""
ROUNDS = 4
"""Of a robust fit: what lies far from where the others say counts less in the next round."""
LEAST_OTHERS = 2.0
"""Sure choices of other objects, at least; with fewer nothing is said."""
_RIDGE = 1e-3


def layout_closeness(source_boxes: Float32, boxes: Float32, mass: Float32) -> Float32:
    """(T, O, 4), (T, O, K, 4), (T, O, K) how likely each candidate is → (T, O, K), 0 to 1: how near
    each candidate is to where the frame's other objects say; 0 where they do not say."""
    source = _centres(source_boxes)  # (T, O, 2)
    centre = _centres(boxes)  # (T, O, K, 2)
    point = np.concatenate([source, np.ones((*source.shape[:-1], 1))], axis=-1)  # (T, O, 3)
    square = point[..., :, None] * point[..., None, :]  # (T, O, 3, 3)
    weight, closeness = mass.astype(np.float64), np.zeros(mass.shape)
    for _ in range(ROUNDS):
        normal = weight.sum(axis=-1)[..., None, None] * square  # (T, O, 3, 3)
        chosen = (weight[..., None] * centre).sum(axis=-2)  # (T, O, 2)
        right = point[..., :, None] * chosen[..., None, :]  # (T, O, 3, 2)
        affine = np.linalg.solve(_of_others(normal) + _RIDGE * np.eye(3), _of_others(right))
        expected = (point[..., None, :] @ affine)[..., 0, :]  # (T, O, 2)
        away = np.square(centre - expected[..., None, :]).sum(axis=-1)  # (T, O, K)
        closeness = np.exp(away / (-2 * SPREAD**2))
        weight = mass * closeness
    others = _of_others(weight.sum(axis=-1))  # (T, O)
    return np.asarray(closeness * (others >= LEAST_OTHERS)[..., None], np.float32)


def _centres(boxes: Float32) -> Float64:
    """(..., 4) → (..., 2), counted from near the image's middle."""
    return (boxes[..., :2] + boxes[..., 2:]).astype(np.float64) / 2 - 0.5


def _of_others(values: Float64) -> Float64:
    """(T, O, ...) → for each object the sum over the other ones."""
    return np.asarray(values.sum(axis=1, keepdims=True) - values)
