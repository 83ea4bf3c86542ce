"""A plain implementation of LM-EEC's inference: one object, one frame, one token at a time.

The tests of omama/lm_eec/tracking.py compare with it, and bench_lm_eec.py times it. It uses the
same network parts but feeds them without any sharing: every picture is encoded once per object, a
bank is a list, and tokens are dropped by comparing numbers. The benchmark uses `quick_compress`
instead, because the released code also drops tokens by tensor operations.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch

from omama.lm_eec.network import DecodedMasks, ImageFeatures, LmEecNetwork

BANK = 6


@dataclass
class Track:
    """The memories of one object: (n, 64) arrays of each view, and the object pointers."""

    raw: dict[int, tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict)
    """Frame → its source and destination memories, as encoded."""
    bank: list[tuple[torch.Tensor, torch.Tensor]] = field(default_factory=list)
    pointers: dict[int, torch.Tensor] = field(default_factory=dict)


def plain_track(
    network: LmEecNetwork,
    source_images: torch.Tensor,
    dest_images: torch.Tensor,
    source_masks: torch.Tensor,
    *,
    reference: bool,
    quick: bool = False,
) -> dict[int, DecodedMasks]:
    """Frame → the decoder's output, for the frames with a non-empty source mask."""
    track, outputs = Track(), {}
    for frame in range(len(source_masks)):
        if not source_masks[frame].any():
            continue
        images = source_images[frame], dest_images[frame]
        outputs[frame] = plain_frame(
            network, track, frame, len(source_masks), images, source_masks[frame],
            reference, quick_compress if quick else plain_compress,
        )  # fmt: skip
    return outputs


def plain_frame(network, track, frame, frames, images, mask, reference, compress):
    """One frame of one object, from its two pictures (3, S, S) and its source mask (S, S)."""
    source, dest = (plain_features(network, image) for image in images)
    # The released code encodes the source twice too: for the view and for the bank.
    view = network.view_feature(dest, network.source_memory(source.stride16, mask[None]))
    source_memory = network.source_memory(source.stride16, mask[None])
    bank = bank_before(track, frame, reference, compress)
    fused = view
    if bank:
        pointers, distances = pointers_before(track, frame, frames, reference)
        oldest = BANK - 1 if reference else len(bank) - 1
        stacked = torch.stack([torch.stack(list(entry)) for entry in bank], 1)  # (2, T, n, 64)
        memory = network.memory_feature(
            dest,
            stacked[:, :, :, None],
            [oldest - place for place in range(len(bank))],
            torch.stack(pointers)[:, None] if pointers else view.new_zeros((0, 1, 256)),
            torch.tensor(distances, device=view.device)[:, None],
        )
        fused = plain_fusion(network.fusion, memory, view)
    decoded = network.decode(fused, dest)
    dest_memory = network.dest_memory(dest.stride16, decoded)
    track.raw[frame] = (source_memory[:, 0], dest_memory[:, 0])
    track.bank = bank
    track.pointers[frame] = decoded.pointer[0]
    return decoded


def plain_features(network, image):
    """The features of one picture (3, S, S).

    They lack what the network prepares for many objects, so transformers' own memory attention
    runs.
    """
    levels = network.sam.vision_encoder(image[None], return_dict=True).fpn_hidden_states
    decoder = network.sam.mask_decoder
    return ImageFeatures(decoder.conv_s0(levels[0]), decoder.conv_s1(levels[1]), levels[2])


def bank_before(track, frame, reference, compress):
    """The bank that `frame` reads, a list from the oldest entry to the newest."""
    frames = sorted(track.raw)
    if len(frames) < BANK + 1:
        if reference:
            frames = [earlier for earlier in frames if frame - BANK <= earlier < frame]
        return [track.raw[earlier] for earlier in frames[-BANK:]]
    if reference and frames[-1] != frame - 1:
        return track.bank
    entries = [*track.bank, track.raw[frames[-1]]]
    views = [compress([entry[view] for entry in entries]) for view in (0, 1)]
    return list(zip(*views, strict=True))


def plain_compress(entries):
    """Shorten a bank of T arrays (n, C) to T - 1.

    For each token, the entry that is most similar to the preceding entry is dropped.
    """
    shorter = [entry.clone() for entry in entries[:-1]]
    for token in range(len(entries[0])):
        history = [entry[token] for entry in entries]
        steps = [
            float(np.sqrt(sum(float(value) ** 2 for value in later - earlier)))
            for earlier, later in zip(history, history[1:], strict=False)
        ]
        del history[steps.index(min(steps)) + 1]
        for place, value in enumerate(history):
            shorter[place][token] = value
    return shorter


def quick_compress(entries):
    """The same for all tokens at once."""
    bank = torch.stack(entries)  # (T, n, C)
    dropped = (bank[1:] - bank[:-1]).norm(dim=-1).argmin(0) + 1  # (n,)
    rows = torch.arange(len(bank) - 1, device=bank.device)[:, None].expand(-1, len(dropped))
    rows = rows + (rows >= dropped)  # (T - 1, n)
    return list(bank.gather(0, rows[..., None].expand(-1, -1, bank.shape[-1])))


def pointers_before(track, frame, frames, reference):
    """Object pointers of the preceding frames, nearest first, and their distances in [0, 1]."""
    count = min(frames, 16) if reference else 8
    near = [ago for ago in range(1, count) if frame - ago in track.pointers]
    return [track.pointers[frame - ago] for ago in near], [ago / (count - 1) for ago in near]


def plain_fusion(fusion, memory, view):
    """The fusion (MV_MoE) computed from its weights: four gates, each between 1 and 2."""
    weights = {key: value.detach() for key, value in fusion.state_dict().items()}

    def channel_gate(name):
        mean = torch.cat([memory.mean((2, 3)), view.mean((2, 3))], 1)
        hidden = (mean @ weights[f"{name}.0.weight"].T + weights[f"{name}.0.bias"]).clamp(min=0)
        gate = hidden @ weights[f"{name}.2.weight"].T + weights[f"{name}.2.bias"]
        return 1 / (1 + torch.exp(-gate))[:, :, None, None]

    def spatial_gate(name, joined):
        hidden = torch.conv2d(joined, weights[f"{name}.0.weight"], padding=1).clamp(min=0)
        return 1 / (1 + torch.exp(-torch.conv2d(hidden, weights[f"{name}.2.weight"])))

    first = memory * (1 + channel_gate("mlp1"))
    second = view * (1 + channel_gate("mlp2"))
    joined = torch.cat([first, second], 1)
    return first * (1 + spatial_gate("conv1", joined)) + second * (
        1 + spatial_gate("conv2", joined)
    )
