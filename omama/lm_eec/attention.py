"""SAM 2.1's memory attention where nothing is learnt: the same sums, with less work.

Weights and order are those of transformers' Sam2VideoMemoryAttention, which training calls. Here

- the first layer attends to the picture alone before it meets a memory, so that this is done once a
  picture (`self_attend`), not for every object and both of its features;
- positions turn a pair of channels as one complex number: one pass over the keys, not seven;
- on a CPU what is attended to is summed in the memory's 64 channels and projected to 256 afterwards
  (weights that sum to 1 let a projection through), a track at a time: its keys stay in the cache.

B pictures or tracks, n tokens of a picture, N of what is attended to.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention


def self_attend(attention: Any, tokens: torch.Tensor, turns: torch.Tensor) -> torch.Tensor:
    """A picture's tokens with their positions (B, n, 256) → what the first layer makes of them
    before it meets a memory; turns (n, 128, 2) of `rotary_pairs`."""
    return tokens + _self_attention(attention.layers[0], tokens, turns)


def attend(
    attention: Any,
    looked: torch.Tensor,
    memory: torch.Tensor,
    positions: torch.Tensor,
    turns: torch.Tensor,
    *,
    pointer_tokens: int,
) -> torch.Tensor:
    """`self_attend`'s tokens (B, n, 256) and memories (N, B, 64) with positions → (B, n, 256).

    `memory` is whole maps of n tokens, which `turns` turns, and pointers, which have no place.
    """
    values = memory.transpose(0, 1).contiguous()  # (B, N, 64)
    keyed = (memory + positions).transpose(0, 1).contiguous()
    maps = (len(memory) - pointer_tokens) // len(turns)
    unturned = turns.new_zeros(pointer_tokens, turns.shape[1], 2)
    unturned[..., 0] = 1
    everywhere = torch.cat([turns.repeat(maps, 1, 1), unturned])  # (N, 128, 2)
    cross = _summed_first if memory.device.type == "cpu" else _projected_first
    tokens = looked
    for number, layer in enumerate(attention.layers):
        if number:
            tokens = tokens + _self_attention(layer, tokens, turns)
        part = layer.cross_attn_image
        query = _turned(part.q_proj(layer.layer_norm2(tokens)), turns)
        tokens = tokens + part.o_proj(cross(part, query, keyed, values, everywhere))
        hidden = layer.activation(layer.linear1(layer.layer_norm3(tokens)))
        tokens = tokens + layer.linear2(hidden)
    looked_at: torch.Tensor = attention.layer_norm(tokens)
    return looked_at


def rotary_pairs(cosines: torch.Tensor, sines: torch.Tensor) -> torch.Tensor:
    """transformers' cosines and sines (1, n, 256), each value twice → both of each, (n, 128, 2)."""
    return torch.stack([cosines[0, :, ::2], sines[0, :, ::2]], -1)


def _self_attention(layer: Any, tokens: torch.Tensor, turns: torch.Tensor) -> torch.Tensor:
    part, tokens = layer.self_attn, layer.layer_norm1(tokens)
    query, key = (_turned(project(tokens), turns) for project in (part.q_proj, part.k_proj))
    attended: torch.Tensor = part.o_proj(_attended(query, key, part.v_proj(tokens)))
    return attended


def _projected_first(
    part: Any,
    query: torch.Tensor,
    keyed: torch.Tensor,
    values: torch.Tensor,
    turns: torch.Tensor,
) -> torch.Tensor:
    return _attended(query, _turned(part.k_proj(keyed), turns), part.v_proj(values))


def _summed_first(
    part: Any,
    query: torch.Tensor,
    keyed: torch.Tensor,
    values: torch.Tensor,
    turns: torch.Tensor,
) -> torch.Tensor:
    summed = []
    for one, keys, value in zip(query * part.scaling, keyed, values, strict=True):
        shares = (one @ _turned(part.k_proj(keys), turns).T).softmax(-1)  # (n, N)
        summed.append(shares.to(value.dtype) @ value)
    projected: torch.Tensor = part.v_proj(torch.stack(summed))
    return projected


def _attended(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """One head, (B, n, 256)."""
    return scaled_dot_product_attention(query[:, None], key[:, None], value[:, None])[:, 0]


def _turned(tokens: torch.Tensor, turns: torch.Tensor) -> torch.Tensor:
    """(…, n, 256), in float32 as SAM does it."""
    pairs = torch.view_as_complex(tokens.float().unflatten(-1, (-1, 2)))
    turned = pairs * torch.view_as_complex(turns)
    return torch.view_as_real(turned).flatten(-2).type_as(tokens)
