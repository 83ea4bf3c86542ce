"""The losses of training: for the right candidate, and for visibility.

Legend: P pairs, N candidates.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

TEMPERATURE = 0.07


def matching_loss(
    similarity: Tensor, positive_idx: Tensor, visible: Tensor, *, temperature: float = TEMPERATURE
) -> Tensor:
    """Mean cross entropy of the similarities divided by `temperature`.

    similarity (P, N), -inf for padding; positive_idx (P,) int64; visible (P,) bool or float. Absent
    objects count as zero: like the reference, the mean is over all P pairs.
    """
    visible = visible.to(similarity.dtype)
    # A pair without a positive may have only padding, whose infinite loss times 0 would be nan.
    logits = torch.where(visible[:, None] > 0, similarity / temperature, 0.0)  # (P, N)
    losses = F.cross_entropy(logits, positive_idx, reduction="none")  # (P,)
    return (losses * visible).mean()


def visibility_loss(logit: Tensor, visible: Tensor, *, visible_share: float) -> Tensor:
    """Binary cross entropy in which visible and absent pairs have half of the weight each.

    logit (P,): log odds of visible; visible (P,) bool. `visible_share`, between 0 and 1, is that of
    all training pairs: a batch of 24 often has no absent pair at all.
    """
    weights = torch.where(visible, 0.5 / visible_share, 0.5 / (1 - visible_share))  # (P,)
    target = visible.to(logit.dtype)
    losses = F.binary_cross_entropy_with_logits(logit, target, reduction="none")  # (P,)
    return (losses * weights).mean()
