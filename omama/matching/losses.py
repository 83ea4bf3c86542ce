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


def visibility_loss(logit: Tensor, visible: Tensor, *, visible_share: float) -> Tensor:
    """Binary cross entropy in which visible and absent pairs weigh half each over all of training.

    logit (P,): log odds of visible; visible (P,) bool; `visible_share`, between 0 and 1, is that
    of all training pairs: one batch of 24 often holds no absent pair at all.
    """
    weights = torch.where(visible, 0.5 / visible_share, 0.5 / (1 - visible_share))  # (P,)
    target = visible.to(logit.dtype)
    losses = F.binary_cross_entropy_with_logits(logit, target, reduction="none")  # (P,)
    return (losses * weights).mean()
