"""SAM 2.1's memory attention without gradients: the same formulas with less work.

Weights and order are those of transformers' Sam2VideoMemoryAttention, which training calls.
Differences:

- The first layer's self-attention depends on the picture only, so it is computed once a picture
  (`self_attend`) and not for every object and both of its features.
- The rotary position embedding rotates a pair of channels as one complex number: one pass over the
  keys instead of seven.
- On a CPU, values are averaged in the memory's 64 channels and projected to 256 afterwards, which
  is equal because attention weights sum to 1. One track at a time, so that its keys stay in the
  processor's cache.

Legend: B pictures or tracks, n tokens of a picture, N tokens that are attended to (keys).
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention


def self_attend(attention: Any, tokens: torch.Tensor, rotations: torch.Tensor) -> torch.Tensor:
    """The first layer's self-attention of pictures, with its residual connection.

    tokens (B, n, 256) include the position embeddings; rotations (n, 128, 2) of `rotary_pairs`.
    """
    return tokens + _self_attention(attention.layers[0], tokens, rotations)


def attend(
    attention: Any,
    tokens: torch.Tensor,
    memory: torch.Tensor,
    positions: torch.Tensor,
    rotations: torch.Tensor,
    *,
    pointer_tokens: int,
) -> torch.Tensor:
    """`self_attend`'s tokens (B, n, 256) and memories (N, B, 64) with positions → (B, n, 256).

    `memory` holds maps of n tokens, which `rotations` rotates, and then the tokens of pointers,
    which have no place in the picture and are not rotated.
    """
    values = memory.transpose(0, 1).contiguous()  # (B, N, 64)
    keys = (memory + positions).transpose(0, 1).contiguous()  # (B, N, 64)
    maps = (len(memory) - pointer_tokens) // len(rotations)
    identity = rotations.new_zeros(pointer_tokens, rotations.shape[1], 2)
    identity[..., 0] = 1  # cosine 1, sine 0
    key_rotations = torch.cat([rotations.repeat(maps, 1, 1), identity])  # (N, 128, 2)
    cross_attend = _average_first if memory.device.type == "cpu" else _project_first
    for number, layer in enumerate(attention.layers):
        if number:
            tokens = tokens + _self_attention(layer, tokens, rotations)
        part = layer.cross_attn_image
        query = _rotate(part.q_proj(layer.layer_norm2(tokens)), rotations)
        tokens = tokens + part.o_proj(cross_attend(part, query, keys, values, key_rotations))
        hidden = layer.activation(layer.linear1(layer.layer_norm3(tokens)))
        tokens = tokens + layer.linear2(hidden)
    attended: torch.Tensor = attention.layer_norm(tokens)
    return attended


def rotary_pairs(cosines: torch.Tensor, sines: torch.Tensor) -> torch.Tensor:
    """transformers' cosines and sines (1, n, 256), which repeat each value → (n, 128, 2)."""
    return torch.stack([cosines[0, :, ::2], sines[0, :, ::2]], -1)


def _self_attention(layer: Any, tokens: torch.Tensor, rotations: torch.Tensor) -> torch.Tensor:
    part, tokens = layer.self_attn, layer.layer_norm1(tokens)
    query, key = (_rotate(project(tokens), rotations) for project in (part.q_proj, part.k_proj))
    attended: torch.Tensor = part.o_proj(_attend_one_head(query, key, part.v_proj(tokens)))
    return attended


def _project_first(
    part: Any,
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    rotations: torch.Tensor,
) -> torch.Tensor:
    return _attend_one_head(query, _rotate(part.k_proj(keys), rotations), part.v_proj(values))


def _average_first(
    part: Any,
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    rotations: torch.Tensor,
) -> torch.Tensor:
    averages = []
    tracks = zip(query * part.scaling, keys, values, strict=True)
    for track_query, track_keys, track_values in tracks:
        scores = track_query @ _rotate(part.k_proj(track_keys), rotations).T  # (n, N)
        averages.append(scores.softmax(-1).to(track_values.dtype) @ track_values)  # (n, 64)
    projected: torch.Tensor = part.v_proj(torch.stack(averages))  # (B, n, 256)
    return projected


def _attend_one_head(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """(B, n, 256), (B, N, 256), (B, N, 256) → (B, n, 256)."""
    return scaled_dot_product_attention(query[:, None], key[:, None], value[:, None])[:, 0]


def _rotate(tokens: torch.Tensor, rotations: torch.Tensor) -> torch.Tensor:
    """Rotary position embedding of (…, n, 256), in float32 as SAM computes it."""
    pairs = torch.view_as_complex(tokens.float().unflatten(-1, (-1, 2)))
    rotated = pairs * torch.view_as_complex(rotations)
    return torch.view_as_real(rotated).flatten(-2).type_as(tokens)
