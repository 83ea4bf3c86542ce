"""The descriptor's own cosine as a part of the score, so that training starts from k-NN's level.

An embedding is [sqrt(share) * trained, sqrt(1 - share) * own]; the cosine of two embeddings is
share times the trained cosine plus (1 - share) times the cosine of the own parts. The own part is a
linear map of the centred descriptor (mask and context part). The map has a closed form, from pairs
of masks of the same object in two views: directions in which such masks differ are shrunk, and the
strongest of the other directions are kept (linear discriminant analysis in which every object is a
class; within-class covariance normalisation, Hatch et al. 2006). The own part is a unit vector.

Legend: P pairs, C channels of the backbone, W channels of the model, K channels of the own part.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SHRINKAGE = 0.1
"""Weight of a sphere that is mixed into the covariance within pairs; 0.05 to 0.2 are equally good
on val."""


class DescriptorPart(nn.Module):
    """The embedding's fixed part, a map of the descriptor, and the weights of both parts."""

    mean: Tensor
    map: Tensor
    input_scale: Tensor

    def __init__(self, feature_width: int, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(2 * feature_width))
        self.register_buffer("map", torch.eye(2 * feature_width, width))
        self.register_buffer("input_scale", torch.ones(()))
        self.logit = nn.Parameter(torch.zeros(()))
        """Logit of the trained part's share."""

    @property
    def share(self) -> Tensor:
        """Weight of the trained part in the score, between 0 and 1."""
        return self.logit.sigmoid()

    def forward(self, descriptors: Tensor) -> Tensor:
        """(..., 2C) → unit vectors (..., K), float32."""
        # A whitening map multiplies small differences, which bfloat16 would round away.
        with torch.autocast(descriptors.device.type, enabled=False):
            centred = F.normalize(descriptors.float() - self.mean, dim=-1)
            return F.normalize(centred @ self.map, dim=-1)

    def join(self, trained: Tensor, descriptors: Tensor) -> Tensor:
        """Unit embeddings (..., W), descriptors (..., 2C) → unit embeddings (..., W + K)."""
        share = self.share
        return torch.cat([share.sqrt() * trained, (1 - share).sqrt() * self(descriptors)], dim=-1)

    @torch.no_grad()
    def fit(self, sources: Tensor, dests: Tensor) -> None:
        """Set mean, map and scale from descriptors of P objects in two views, (P, 2C) each."""
        descriptors = torch.cat([sources, dests]).double()  # (2P, 2C)
        mean = descriptors.mean(dim=0)
        mask_parts = descriptors[:, : descriptors.shape[1] // 2]
        rms = mask_parts.square().mean().sqrt().clamp(min=1e-6)
        centred = F.normalize(descriptors - mean, dim=-1)
        source_vectors, dest_vectors = centred.chunk(2)  # (P, 2C) each
        self.map.copy_(discriminant_map(source_vectors, dest_vectors, self.map.shape[1]))
        self.mean.copy_(mean)
        self.input_scale.copy_(1 / rms)


def discriminant_map(sources: Tensor, dests: Tensor, width: int) -> Tensor:
    """Vectors of the same objects in two views, (P, D) each, float64 → map (D, width).

    The map makes the covariance of sources - dests (nearly) a sphere and keeps the `width`
    directions of greatest spread.
    """
    differences = sources - dests
    within = differences.T @ differences / (2 * len(differences))  # (D, D)
    size = within.trace() / len(within)
    sphere = torch.eye(len(within), dtype=within.dtype) * size
    values, vectors = torch.linalg.eigh((1 - SHRINKAGE) * within + SHRINKAGE * sphere)
    # A direction without any difference has the eigenvalue 0, which cannot be divided by.
    whitening = (vectors * values.clamp(min=1e-12).rsqrt()) @ vectors.T
    spread = torch.cat([sources, dests]) @ whitening  # (2P, D)
    _, directions = torch.linalg.eigh(spread.T @ spread)  # ascending
    projection: Tensor = whitening @ directions.flip(1)[:, :width]
    return projection
