"""LM-EEC's inference, written as plainly as it can be: one object, one frame, one token at a time.

What omama.lm_eec must equal (tests/test_memory_tracking.py) and be faster than (bench_lm_eec.py).
It shares the network's parts with it, and nothing of how they are fed: every picture is encoded for
every object anew, a bank is a list, and a token of it is dropped by comparing numbers. For that the
benchmark takes `quick_compress`, since the released code drops tokens by tensors too.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch

from omama.lm_eec.network import Decoded, ImageFeatures, LmEecNetwork

BANK = 6


@dataclass
class Track:
    """What is remembered of one object: a list of (n, 64) arrays of each view, and the pointers."""

    raw: dict[int, tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict)
    """Frame → its source and destination memories, as they were encoded."""
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
) -> dict[int, Decoded]:
    """Frame → what is decoded there, of the frames whose source mask is not empty."""
    track, answers = Track(), {}
    for frame in range(len(source_masks)):
        if not source_masks[frame].any():
            continue
        images = source_images[frame], dest_images[frame]
        answers[frame] = plain_frame(
            network, track, frame, len(source_masks), images, source_masks[frame],
            reference, quick_compress if quick else plain_compress,
        )  # fmt: skip
    return answers


def plain_frame(network, track, frame, frames, images, mask, reference, compress):
    """One frame of one object, from its two pictures (3, S, S) and its source mask (S, S)."""
    source, dest = (plain_features(network, image) for image in images)
    # Encoded twice, for the view and for the bank, as the released code does.
    view = network.view_feature(dest, network.source_memory(source.stride16, mask[None]))
    source_memory = network.source_memory(source.stride16, mask[None])
    bank = bank_before(track, frame, reference, compress)
    fused = view
    if bank:
        pointers, distances = pointers_before(track, frame, frames, reference)
        oldest = BANK - 1 if reference else len(bank) - 1
        stacked = torch.stack([torch.stack(list(entry)) for entry in bank], 1)  # (2, T, n, 64)
        remembered = network.memory_feature(
            dest,
            stacked[:, :, :, None],
            [oldest - place for place in range(len(bank))],
            torch.stack(pointers)[:, None] if pointers else view.new_zeros((0, 1, 256)),
            torch.tensor(distances, device=view.device)[:, None],
        )
        fused = plain_fusion(network.fusion, remembered, view)
    decoded = network.decode(fused, dest)
    dest_memory = network.dest_memory(dest.stride16, decoded)
    track.raw[frame] = (source_memory[:, 0], dest_memory[:, 0])
    track.bank = bank
    track.pointers[frame] = decoded.pointer[0]
    return decoded


def plain_features(network, image):
    """What the network makes of one picture (3, S, S), without what it prepares for many objects:
    then transformers' own memory attention is called."""
    levels = network.sam.vision_encoder(image[None], return_dict=True).fpn_hidden_states
    decoder = network.sam.mask_decoder
    return ImageFeatures(decoder.conv_s0(levels[0]), decoder.conv_s1(levels[1]), levels[2])


def bank_before(track, frame, reference, compress):
    """The bank that `frame` reads, as a list from the oldest entry to the newest."""
    run = sorted(track.raw)
    if len(run) < BANK + 1:
        if reference:
            run = [one for one in run if frame - BANK <= one < frame]
        return [track.raw[one] for one in run[-BANK:]]
    if reference and run[-1] != frame - 1:
        return track.bank
    grown = [*track.bank, track.raw[run[-1]]]
    views = [compress([entry[view] for entry in grown]) for view in (0, 1)]
    return list(zip(*views, strict=True))


def plain_compress(entries):
    """One bank of T arrays (n, C) → T - 1: of each token the one most like its elder goes."""
    shorter = [entry.clone() for entry in entries[:-1]]
    for token in range(len(entries[0])):
        history = [entry[token] for entry in entries]
        steps = [
            float(np.sqrt(sum(float(value) ** 2 for value in later - earlier)))
            for earlier, later in zip(history, history[1:], strict=False)
        ]
        del history[steps.index(min(steps)) + 1]
        for place, kept in enumerate(history):
            shorter[place][token] = kept
    return shorter


def quick_compress(entries):
    """The same of a whole map at once."""
    bank = torch.stack(entries)  # (T, n, C)
    later = (bank[1:] - bank[:-1]).norm(dim=-1).argmin(0) + 1  # (n,)
    kept = torch.arange(len(bank) - 1, device=bank.device)[:, None].expand(-1, len(later))
    kept = kept + (kept >= later)  # (T - 1, n)
    return list(bank.gather(0, kept[..., None].expand(-1, -1, bank.shape[-1])))


def pointers_before(track, frame, frames, reference):
    """Pointers of the frames just before, nearest first, and how far away they are, in [0, 1]."""
    count = min(frames, 16) if reference else 8
    near = [ago for ago in range(1, count) if frame - ago in track.pointers]
    return [track.pointers[frame - ago] for ago in near], [ago / (count - 1) for ago in near]


def plain_fusion(fusion, memory, view):
    """MV_MoE from its weights: four gates, each between 1 and 2."""
    weights = {name: value.detach() for name, value in fusion.state_dict().items()}

    def by_channel(which):
        mean = torch.cat([memory.mean((2, 3)), view.mean((2, 3))], 1)
        hidden = (mean @ weights[f"{which}.0.weight"].T + weights[f"{which}.0.bias"]).clamp(min=0)
        gate = hidden @ weights[f"{which}.2.weight"].T + weights[f"{which}.2.bias"]
        return 1 / (1 + torch.exp(-gate))[:, :, None, None]

    def by_place(which, joined):
        hidden = torch.conv2d(joined, weights[f"{which}.0.weight"], padding=1).clamp(min=0)
        return 1 / (1 + torch.exp(-torch.conv2d(hidden, weights[f"{which}.2.weight"])))

    first = memory * (1 + by_channel("mlp1"))
    second = view * (1 + by_channel("mlp2"))
    joined = torch.cat([first, second], 1)
    return first * (1 + by_place("conv1", joined)) + second * (1 + by_place("conv2", joined))
