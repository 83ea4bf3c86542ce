"""What training minimises: pick the right candidate, and say when there is none.

Legend: P pairs, N candidates.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

TEMPERATURE = 0.07


def matching_loss(
    similarity: Tensor, positive_idx: Tensor, visible: Tensor, *, temperature: float = TEMPERATURE
) -> Tensor:
    """Mean over the batch of cross entropy at `temperature`, absent objects counting as zero.

    similarity (P, N), -inf for padding; positive_idx (P,) int64; visible (P,) bool or float.
    Like the reference it divides by all P pairs, not by the visible ones.
    """
    visible = visible.to(similarity.dtype)
    # A pair without a positive may have nothing but padding: keep its inf out of the sum.
    logits = torch.where(visible[:, None] > 0, similarity / temperature, 0.0)  # (P, N)
    losses = F.cross_entropy(logits, positive_idx, reduction="none")  # (P,)
    return (losses * visible).mean()


def visibility_loss(logits: Tensor, visible: Tensor) -> Tensor:
    """Cross entropy of absent / visible, both classes weighing the same within the batch.

    logits (P, 2), columns absent, visible (see `OMama.visibility_logits`); visible (P,) bool.
    A batch of one class only is a plain mean.
    """
    target = visible.long()
    losses = F.cross_entropy(logits, target, reduction="none")  # (P,)
    counts = torch.bincount(target, minlength=2)
    weights = 1.0 / counts[target].to(losses.dtype)  # (P,)
    return (losses * weights).sum() / (counts > 0).sum()
