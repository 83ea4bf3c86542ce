"""One vector per mask: the mean of the dense features over it, and over the box around it.

The reference upsamples an image's tokens bilinearly to a quarter of the image's size and loops over
the masks. Upsampling and averaging are both linear, U = Ry F Rx' and mean = sum(M * U) / |M|, so
that the weights Ry' M Rx / |M| can be computed on the token grid and one matrix product pools all
masks. The upsampled features are never computed.

Legend: N masks, C channels, h x w tokens, q x r cells of the quarter grid. Boxes are in pixels
of the prepared image; weights are float32, (N, h * w), row by row.
"""

from functools import cache

import torch
from torch import Tensor

CONTEXT_PIXELS = 100
"""Number of pixels of the prepared image by which a box grows on each side."""
QUARTER = 4

HW = tuple[int, int]


def quarter_grid(h: int, w: int, patch_size: int) -> HW:
    """Size of the grid on which masks are averaged, for h x w tokens of `patch_size` pixels."""
    return int(h * patch_size / QUARTER), int(w * patch_size / QUARTER)


def mask_weights(masks_quarter: Tensor, h: int, w: int) -> Tensor:
    """Masks on the quarter grid (N, q, r) → weights (N, h * w) of the mean; zeros if empty."""
    device = masks_quarter.device
    up_rows = _upsampling(masks_quarter.shape[1], h, device)
    up_cols = _upsampling(masks_quarter.shape[2], w, device)
    masks = masks_quarter.to(torch.float32)
    area = masks.sum(dim=(1, 2)).clamp(min=1.0)  # (N,)
    narrow = masks @ up_cols  # (N, q, w)
    weights = up_rows.T @ narrow  # (N, h, w)
    return (weights / area[:, None, None]).flatten(1)  # (N, h * w)


def context_boxes(boxes_xywh: Tensor, image_hw: HW) -> Tensor:
    """Boxes xywh (N, 4) in pixels → grown boxes x1, y1, x2, y2 on the quarter grid, int64 (N, 4).

    The boxes are half open, at least one cell large, and inside the grid of image_hw // 4 cells.
    """
    height, width = image_hw
    x1, y1, box_width, box_height = boxes_xywh.to(torch.int32).long().unbind(1)
    x2, y2 = x1 + box_width, y1 + box_height
    x1, y1 = (x1 - CONTEXT_PIXELS).clamp(min=0), (y1 - CONTEXT_PIXELS).clamp(min=0)
    x2, y2 = (x2 + CONTEXT_PIXELS).clamp(max=width), (y2 + CONTEXT_PIXELS).clamp(max=height)
    x1, y1, x2, y2 = (edge // QUARTER for edge in (x1, y1, x2, y2))
    x2, y2 = torch.maximum(x2, x1 + 1), torch.maximum(y2, y1 + 1)
    rows, cols = height // QUARTER, width // QUARTER
    x1, x2 = x1.clamp(0, cols - 1), x2.clamp(0, cols)
    y1, y2 = y1.clamp(0, rows - 1), y2.clamp(0, rows)
    return torch.stack([x1, y1, x2, y2], dim=1)  # (N, 4)


def context_weights(boxes: Tensor, quarter_hw: HW, h: int, w: int) -> Tensor:
    """Boxes of `context_boxes` (N, 4) → weights (N, h * w) of the mean inside each box.

    A box is a product of two intervals, and so are its weights.
    """
    x1, y1, x2, y2 = boxes.unbind(1)
    rows = _interval_weights(y1, y2, quarter_hw[0], h)  # (N, h)
    cols = _interval_weights(x1, x2, quarter_hw[1], w)  # (N, w)
    return (rows[:, :, None] * cols[:, None, :]).flatten(1)  # (N, h * w)


def descriptor_weights(
    masks_quarter: Tensor, boxes_xywh: Tensor, h: int, w: int, patch_size: int
) -> Tensor:
    """Masks (N, q, r) and their boxes (N, 4) → weights (N, 2, h * w): mask part, context part."""
    boxes = context_boxes(boxes_xywh, (h * patch_size, w * patch_size))
    context = context_weights(boxes, quarter_grid(h, w, patch_size), h, w)
    return torch.stack([mask_weights(masks_quarter, h, w), context], dim=1)  # (N, 2, h * w)


def pool(weights: Tensor, tokens: Tensor) -> Tensor:
    """weights (..., N, h * w), tokens (..., C, h, w) → means (..., N, C), float32."""
    # Under autocast a mean over thousands of tokens would lose its last digits.
    with torch.autocast(tokens.device.type, enabled=False):
        return weights.float() @ tokens.float().flatten(-2).transpose(-1, -2)  # (..., N, C)


def describe(
    tokens: Tensor, masks_quarter: Tensor, boxes_xywh: Tensor, *, patch_size: int
) -> Tensor:
    """Descriptors (N, 2C), float32, of masks (N, q, r) with boxes (N, 4) on tokens (C, h, w)."""
    h, w = tokens.shape[-2:]
    weights = descriptor_weights(masks_quarter, boxes_xywh, h, w, patch_size)  # (N, 2, h * w)
    means = pool(weights.flatten(0, 1).to(tokens.device), tokens)  # (N * 2, C)
    descriptors: Tensor = means.unflatten(0, (-1, 2)).flatten(1)  # (N, 2C)
    return descriptors


def _interval_weights(start: Tensor, stop: Tensor, n_cells: int, n_tokens: int) -> Tensor:
    cells = torch.arange(n_cells, device=start.device)
    inside = ((cells >= start[:, None]) & (cells < stop[:, None])).float()  # (N, n_cells)
    length = inside.sum(dim=1, keepdim=True).clamp(min=1.0)
    return inside @ _upsampling(n_cells, n_tokens, start.device) / length  # (N, n_tokens)


@cache
def _upsampling(n_out: int, n_in: int, device: torch.device) -> Tensor:
    """The matrix (n_out, n_in) of bilinear interpolation along one axis, align_corners=False."""
    basis = torch.eye(n_in, device=device)[:, None]  # (n_in, 1, n_in): each token alone
    return (
        torch.nn.functional.interpolate(basis, size=n_out, mode="linear", align_corners=False)
        .squeeze(1)
        .T.contiguous()
    )  # (n_out, n_in)
