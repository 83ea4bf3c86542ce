"""O-MaMa: compares the source view's objects with the destination view's candidate masks.

A mask's descriptor attends to the tokens of the *other* image, so that an embedding depends only on
its descriptor and the other image. Therefore all objects and candidates of a frame pair share one
pass: `forward` takes S sources at once, and keys and values are computed once per image.

Legend: B frame pairs (a source and a destination image), S source masks, N candidate masks,
C channels of the backbone, W channels of the model, E of an embedding (W, or more with a descriptor
part), h x w tokens of an image. A descriptor is [mask part, context part], 2C values (see
`omama.features.descriptors`).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from egoexo_tools.errors import DataError
from omama.features.descriptor_part import DescriptorPart
from omama.matching.config import ModelConfig
from omama.matching.layers import (
    CrossAttention,
    EmbeddingMlp,
    HeadedTokens,
    resize_positions,
    visibility_mlp,
)

_POSITION_STD = 0.02


class OMama(nn.Module):
    """The published model, with the state-dict keys and shapes of its checkpoints.

    With `config.residual` it also has a `descriptor_part`, and longer embeddings.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.pos_embed_T = _positions(config.dest_grid_hw, width)
        self.pos_embed_Q = _positions(config.source_grid_hw, width)
        self.CROSS_context_attn = CrossAttention(width, config.heads)
        self.mlp = EmbeddingMlp(width)
        self.mlp_visible = (
            visibility_mlp(width, config.embedding_width) if config.visibility_head else None
        )
        # Without a bias it commutes with pooling, and the zeros of an empty mask stay zeros.
        self.projection = (
            nn.Linear(config.feature_width, width, bias=False) if config.has_projection else None
        )
        self.descriptor_part = (
            DescriptorPart(config.feature_width, config.own_width) if config.residual else None
        )

    def forward(
        self,
        source_descriptors: Tensor,
        dest_descriptors: Tensor,
        source_tokens: Tensor,
        dest_tokens: Tensor,
        dest_valid: Tensor | None = None,
    ) -> Tensor:
        """(B, S, 2C), (B, N, 2C), (B, C, h, w), (B, C, h', w') → cosine similarities (B, S, N).

        `dest_valid` (B, N) bool: padding (False) gets -inf. Raises DataError for a shape that does
        not fit the model.
        """
        source = self.embed_sources(source_descriptors, dest_tokens)  # (B, S, E)
        dest = self.embed_candidates(dest_descriptors, source_tokens)  # (B, N, E)
        return cosine(source, dest, dest_valid)  # (B, S, N)

    def embed_sources(self, descriptors: Tensor, dest_tokens: Tensor) -> Tensor:
        """Source masks (B, S, 2C) and destination images → unit embeddings (B, S, E)."""
        return self.embed(descriptors, self.project_dest_tokens(dest_tokens))

    def embed_candidates(self, descriptors: Tensor, source_tokens: Tensor) -> Tensor:
        """Candidates (B, N, 2C) and source images → unit embeddings (B, N, E)."""
        return self.embed(descriptors, self.project_source_tokens(source_tokens))

    def project_dest_tokens(self, tokens: Tensor) -> HeadedTokens:
        """Keys and values of destination images (B, C, h, w), for `embed` of source masks."""
        return self._project_tokens(tokens, self.pos_embed_T, self.config.dest_grid_hw)

    def project_source_tokens(self, tokens: Tensor) -> HeadedTokens:
        """Keys and values of source images (B, C, h, w), for `embed` of candidates."""
        return self._project_tokens(tokens, self.pos_embed_Q, self.config.source_grid_hw)

    def embed(self, descriptors: Tensor, tokens: HeadedTokens) -> Tensor:
        """Descriptors (B, N, 2C), tokens of the other images → unit embeddings (B, N, E)."""
        self._check_width(descriptors.shape[-1], 2 * self.config.feature_width, "descriptors")
        parts = self._project_features(descriptors.unflatten(-1, (2, -1)))  # (B, N, 2, W)
        context = self.CROSS_context_attn.attend(parts[:, :, 0], tokens)  # (B, N, W)
        embedding = self.mlp(torch.cat([context, parts.flatten(2)], dim=-1))  # (B, N, W)
        trained = F.normalize(embedding.float(), dim=-1)
        if self.descriptor_part is None:
            return trained
        return self.descriptor_part.join(trained, descriptors)  # (B, N, E)

    def visibility_logits(self, source: Tensor, dest: Tensor) -> Tensor:
        """Embeddings of sources and of their best candidates, (..., E) each → logits (..., 2).

        The columns are absent and visible. Raises DataError for a model without a visibility head.
        """
        if self.mlp_visible is None:
            raise DataError(
                "this model has no visibility head; load a checkpoint with one, or use the "
                "sigmoid of the best similarity as confidence"
            )
        return self.mlp_visible(torch.cat([source, dest], dim=-1))  # type: ignore[no-any-return]

    def _project_tokens(
        self, tokens: Tensor, positions: Tensor, grid_hw: tuple[int, int]
    ) -> HeadedTokens:
        self._check_width(tokens.shape[1], self.config.feature_width, "tokens")
        to_hw = (tokens.shape[2], tokens.shape[3])
        flat_order = self.config.reference_behaviour and to_hw[0] * to_hw[1] == positions.shape[1]
        if not flat_order:
            positions = resize_positions(positions, grid_hw, to_hw)
        sequence = self._project_features(tokens.flatten(2).transpose(1, 2))  # (B, h * w, W)
        return self.CROSS_context_attn.keys_and_values(sequence + positions)

    def _project_features(self, features: Tensor) -> Tensor:
        if self.descriptor_part is not None:
            features = features * self.descriptor_part.input_scale
        return features if self.projection is None else self.projection(features)  # (..., W)

    def _check_width(self, width: int, expected: int, name: str) -> None:
        if width != expected:
            raise DataError(
                f"the {name} have {width} channels, this model takes {expected} (backbone "
                f"{self.config.backbone}); use features of the backbone it was trained on"
            )


def cosine(source: Tensor, dest: Tensor, dest_valid: Tensor | None = None) -> Tensor:
    """Unit embeddings (B, S, E), (B, N, E) → (B, S, N); -inf where `dest_valid` (B, N) is False.

    In float32 even under autocast: in bfloat16, cosines near 1 differ by at least 0.004.
    """
    with torch.autocast(source.device.type, enabled=False):
        similarity = source.float() @ dest.float().transpose(1, 2)  # (B, S, N)
    if dest_valid is None:
        return similarity
    return similarity.masked_fill(~dest_valid[:, None], -torch.inf)


def _positions(grid_hw: tuple[int, int], width: int) -> nn.Parameter:
    values = torch.empty(1, grid_hw[0] * grid_hw[1], width)
    return nn.Parameter(nn.init.trunc_normal_(values, std=_POSITION_STD))
