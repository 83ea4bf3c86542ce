"""The descriptor's own cosine as a part of the score, so that training adds and does not lose.

An embedding is [sqrt(share) * trained, sqrt(1 - share) * own]; the cosine of two such embeddings is
share times the trained cosine plus (1 - share) times that of their own parts. The own part is a
linear map of the centred descriptor (mask and context part) that comes in closed form from pairs of
masks of one object in two views: directions in which they differ are shrunk, and of the others the
strongest are kept (linear discriminant analysis with every object its own class; within-class
covariance normalisation, Hatch et al. 2006). It stays one unit vector a mask.

Legend: P pairs, C channels of the backbone, W of the model, K of the own part.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SHRINKAGE = 0.1
"""How far the covariance within pairs is drawn to a sphere; 0.05 to 0.2 did equally well on val."""


class DescriptorPart(nn.Module):
    """What an embedding keeps of its descriptor, and how much the trained part counts."""

    mean: Tensor
    map: Tensor
    input_scale: Tensor

    def __init__(self, feature_width: int, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(2 * feature_width))
        self.register_buffer("map", torch.eye(2 * feature_width, width))
        self.register_buffer("input_scale", torch.ones(()))
        self.logit = nn.Parameter(torch.zeros(()))
        """Of the trained part's share."""

    @property
    def share(self) -> Tensor:
        """Of the trained part in the score, between 0 and 1."""
        return self.logit.sigmoid()

    def forward(self, descriptors: Tensor) -> Tensor:
        """(..., 2C) → unit vectors (..., K), float32."""
        # A whitening map multiplies small differences: they must not be rounded away first.
        with torch.autocast(descriptors.device.type, enabled=False):
            centred = F.normalize(descriptors.float() - self.mean, dim=-1)
            return F.normalize(centred @ self.map, dim=-1)

    def join(self, trained: Tensor, descriptors: Tensor) -> Tensor:
        """Unit embeddings (..., W), descriptors (..., 2C) → unit embeddings (..., W + K)."""
        share = self.share
        return torch.cat([share.sqrt() * trained, (1 - share).sqrt() * self(descriptors)], dim=-1)

    @torch.no_grad()
    def fit(self, sources: Tensor, dests: Tensor) -> None:
        """Mean, map and scale from descriptors of one object in two views, (P, 2C) each."""
        both = torch.cat([sources, dests]).double()  # (2P, 2C)
        mean = both.mean(dim=0)
        mask_parts = both[:, : both.shape[1] // 2]
        rms = mask_parts.square().mean().sqrt().clamp(min=1e-6)
        found = discriminant_map(
            F.normalize(sources.double() - mean, dim=-1),
            F.normalize(dests.double() - mean, dim=-1),
            self.map.shape[1],
        )
        self.mean.copy_(mean)
        self.map.copy_(found)
        self.input_scale.copy_(1 / rms)


def discriminant_map(sources: Tensor, dests: Tensor, width: int) -> Tensor:
    """Vectors of the same object, (P, D) each, float64 → map (D, width).

    The covariance of sources - dests becomes (nearly) a sphere; then the `width` directions of
    greatest spread are kept.
    """
    differences = sources - dests
    within = differences.T @ differences / (2 * len(differences))  # (D, D)
    size = within.trace() / len(within)
    sphere = torch.eye(len(within), dtype=within.dtype) * size
    values, vectors = torch.linalg.eigh((1 - SHRINKAGE) * within + SHRINKAGE * sphere)
    # Pairs without any difference leave nothing to divide by.
    whitening = (vectors * values.clamp(min=1e-12).rsqrt()) @ vectors.T
    spread = torch.cat([sources, dests]) @ whitening  # (2P, D)
    _, directions = torch.linalg.eigh(spread.T @ spread)  # ascending
    found: Tensor = whitening @ directions.flip(1)[:, :width]
    return found
