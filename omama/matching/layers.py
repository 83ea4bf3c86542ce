"""The layers of O-MaMa: a cross-attention and two perceptrons.

Attribute names and shapes are those of the published checkpoints (`CROSS_context_attn.*`,
`mlp.*`, `mlp_visible.*`). Legend: B images, N queries (masks), T tokens, H heads, D channels of
a head, W = H * D channels of the model.
"""

import torch.nn.functional as F
from torch import Tensor, nn

HeadedTokens = tuple[Tensor, Tensor]
"""Keys and values of an image's tokens, each (B, H, T, D)."""


class CrossAttention(nn.Module):
    """A mask's descriptor attends to the other view's tokens; the result is its context.

    There is no residual around the attention: the mask enters a context only as the query.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.project = nn.Sequential(nn.Linear(width, width))
        self.norm_input = nn.LayerNorm(width)
        self.norm_output = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))

    def keys_and_values(self, tokens: Tensor) -> HeadedTokens:
        """Tokens with their positions (B, T, W) → what `attend` needs of them, for all masks."""
        tokens = self.norm_input(tokens)
        return self._split(self.key(tokens)), self._split(self.value(tokens))  # (B, H, T, D)

    def attend(self, queries: Tensor, tokens: HeadedTokens) -> Tensor:
        """queries (B, N, W) → contexts (B, N, W)."""
        query = self._split(self.query(self.norm_input(queries)))  # (B, H, N, D)
        attended = F.scaled_dot_product_attention(query, *tokens)  # (B, H, N, D)
        context = self.project(attended.transpose(1, 2).flatten(2))  # (B, N, W)
        return context + self.mlp(self.norm_output(context))  # type: ignore[no-any-return]

    def _split(self, x: Tensor) -> Tensor:
        split: Tensor = x.unflatten(-1, (self.heads, -1)).transpose(1, 2)
        return split  # (B, H, N, D)


class EmbeddingMlp(nn.Module):
    """[context, mask part, context part] (..., 3W) → embedding (..., W)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(3 * width, width),
            nn.ReLU(),
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Linear(width, width),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.mlp(x)  # type: ignore[no-any-return]


def visibility_mlp(width: int, embedding_width: int) -> nn.Sequential:
    """Two embeddings (..., 2E) → logits (..., 2) of absent, visible.

    The hidden widths are the published 768, 256, 128 at W = 768, and proportional to W.
    """
    hidden = (width, max(1, width // 3), max(1, width // 6))
    layers: list[nn.Module] = []
    for n_in, n_out in zip((2 * embedding_width, *hidden[:-1]), hidden, strict=True):
        layers += [nn.Linear(n_in, n_out), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(hidden[-1], 2))


def resize_positions(positions: Tensor, grid_hw: tuple[int, int], to_hw: tuple[int, int]) -> Tensor:
    """Interpolate position embeddings (1, T, W) of one grid bilinearly to another."""
    if grid_hw == to_hw:
        return positions
    grid = positions.unflatten(1, grid_hw).permute(0, 3, 1, 2)  # (1, W, h, w)
    resized = F.interpolate(grid, size=to_hw, mode="bilinear", align_corners=False)
    return resized.flatten(2).transpose(1, 2)  # (1, T', W)
