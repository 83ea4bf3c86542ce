"""Slow twins: the obvious version of each compiled or vectorised function, for the tests.

One section a subject. They read like the definition that they come from and know nothing of
the code that they check.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

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


# --- descriptors -----------------------------------------------------------------------------


def plain_descriptors(
    tokens: "Tensor",
    masks: "Tensor",
    context_boxes: NDArray[np.int64],
    patch_size: int = 14,
) -> "Tensor":
    """The definition, mask by mask, on the upsampled features.

    tokens (C, h, w), masks (N, H, W) at the image's size, boxes x1, y1, x2, y2 on the quarter
    grid → (N, 2C).
    """
    # Here, so that the other sections' tests do not wait for torch.
    import torch
    import torch.nn.functional as F

    grid = (int(tokens.shape[1] * patch_size / 4), int(tokens.shape[2] * patch_size / 4))
    upsampled = F.interpolate(tokens[None], size=grid, mode="bilinear", align_corners=False)[0]
    rows = []
    for mask, (x1, y1, x2, y2) in zip(masks, context_boxes.tolist(), strict=True):
        small = F.interpolate(mask[None, None].float(), size=grid, mode="nearest")[0, 0] > 0
        inside = upsampled[:, small].mean(dim=1) if small.any() else torch.zeros(len(tokens))
        rows.append(torch.cat([inside, upsampled[:, y1:y2, x1:x2].mean(dim=(1, 2))]))
    return torch.stack(rows)


def plain_context_box(box_xywh: Sequence[float], height: int, width: int) -> list[int]:
    """One box grown by 100 pixels, on the quarter grid, in Python integers."""
    x, y, w, h = (int(value) for value in box_xywh)
    x1, y1 = max(0, x - 100) // 4, max(0, y - 100) // 4
    x2, y2 = min(width, x + w + 100) // 4, min(height, y + h + 100) // 4
    x2, y2 = max(x2, x1 + 1), max(y2, y1 + 1)
    x1, y1 = min(max(x1, 0), width // 4 - 1), min(max(y1, 0), height // 4 - 1)
    return [x1, y1, min(x2, width // 4), min(y2, height // 4)]


# --- adjacency -------------------------------------------------------------------------------


def plain_adjacency(points: Sequence[tuple[float, float]], order: int) -> NDArray[np.bool_]:
    """Delaunay by its definition: a triangle whose circumcircle holds no other point.

    For points in general position; within `order` steps, no diagonal.
    """
    count = len(points)
    edges: list[set[int]] = [set() for _ in range(count)]
    for corners in itertools.combinations(range(count), 3):
        (ax, ay), (bx, by), (cx, cy) = (points[i] for i in corners)
        twice = 2 * (ax * (by - cy) + bx * (cy - ay) + cx * (ay - by))
        aa, bb, cc = ax * ax + ay * ay, bx * bx + by * by, cx * cx + cy * cy
        ux = (aa * (by - cy) + bb * (cy - ay) + cc * (ay - by)) / twice
        uy = (aa * (cx - bx) + bb * (ax - cx) + cc * (bx - ax)) / twice
        radius = math.hypot(ax - ux, ay - uy)
        others = (p for i, p in enumerate(points) if i not in corners)
        if all(math.hypot(x - ux, y - uy) > radius for x, y in others):
            for i, j in itertools.permutations(corners, 2):
                edges[i].add(j)
    result = np.zeros((count, count), dtype=bool)
    for start in range(count):
        reached = {start}
        for _ in range(order):
            reached |= {there for here in reached for there in edges[here]}
        result[start, sorted(reached - {start})] = True
    return result


# --- model -----------------------------------------------------------------------------------


def plain_similarity(
    state: Mapping[str, NDArray[np.float32]],
    source: NDArray[np.float32],
    dest: NDArray[np.float32],
    source_tokens: NDArray[np.float32],
    dest_tokens: NDArray[np.float32],
    heads: int = 4,
) -> NDArray[np.float64]:
    """One source (2C,) against candidates (N, 2C) with tokens (C, h, w), one by one → (N,)."""
    weights = {key: value.astype(np.float64) for key, value in state.items()}

    def linear(x: Any, name: str) -> Any:
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def norm(x: Any, name: str) -> Any:
        centred = x - x.mean(axis=-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-5)
        return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def gelu(x: Any) -> Any:
        return 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))

    def relu(x: Any) -> Any:
        return np.maximum(x, 0)

    def embedding(descriptor: Any, tokens: Any, positions: Any) -> Any:
        here = "CROSS_context_attn"
        width = len(descriptor) // 2
        seen = norm(tokens.reshape(width, -1).T + positions[0], f"{here}.norm_input")
        query = linear(norm(descriptor[:width], f"{here}.norm_input"), f"{here}.query")
        keys, values = linear(seen, f"{here}.key"), linear(seen, f"{here}.value")
        answers = []
        for head in np.split(np.arange(width), heads):
            logits = keys[:, head] @ query[head] / math.sqrt(width / heads)
            shares = np.exp(logits - logits.max())
            answers.append(shares @ values[:, head] / shares.sum())
        y = linear(np.concatenate(answers), f"{here}.project.0")
        hidden = gelu(linear(norm(y, f"{here}.norm_output"), f"{here}.mlp.0"))
        y = y + linear(hidden, f"{here}.mlp.2")
        x = np.concatenate([y, descriptor])
        x = relu(linear(relu(linear(x, "mlp.mlp.0")), "mlp.mlp.2"))
        x = linear(x, "mlp.mlp.4")
        return x / np.linalg.norm(x)

    asked = embedding(source, dest_tokens, weights["pos_embed_T"])
    candidates = [embedding(row, source_tokens, weights["pos_embed_Q"]) for row in dest]
    return np.array([asked @ candidate for candidate in candidates])
