"""The leak report: what the splits of a selection share although they should not.

Takes, recording sessions (captures), participants and object names are compared by name, and
frames by their content: small colour thumbnails whose correlation is close to 1. An exo camera
that was not moved between two takes gives such frames, even where all names differ.
"""

import re
from collections.abc import Hashable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import combinations

import cv2
import numpy as np

from egoexo_tools.arrays import Bytes, Float32
from egoexo_tools.errors import DataError
from egoexo_tools.layout import DOWNSCALED_448, Release
from egoexo_tools.release.survey import TakeFacts
from egoexo_tools.running.executors import available_cores
from egoexo_tools.text_table import text_table
from egoexo_tools.video.frames import read_frames
from egoexo_tools.vocab import Split

THUMBNAIL = 16
"""Side of the thumbnails, in pixels."""
NEAR_IDENTICAL = 0.95
"""Smallest correlation of two thumbnails at which the frames count as near-identical. In synthetic
releases a still camera's own frames reach 0.87 to 0.99, and those of two takes at most 0.72."""
_CHUNK = 2048
"""Thumbnails compared at a time, which bounds the matrix of correlations."""
_EXAMPLES = 3


@dataclass(frozen=True)
class Leak:
    """What two splits have in common, of one kind."""

    kind: str
    splits: tuple[Split, Split]
    shared: int
    """How many values are in both splits."""
    total: int
    """How many values the second split has."""
    takes: int
    """Takes of the second split with a shared value."""
    examples: tuple[str, ...]


@dataclass(frozen=True)
class Thumbnails:
    """Frames as unit vectors, so that a dot product is a correlation."""

    frames: list[tuple[str, str, int]]
    """(take_uid, camera, frame_idx) of each."""
    vectors: Float32
    """(n, THUMBNAIL * THUMBNAIL * 3), mean 0 and length 1."""
    missing: int = 0
    """Cameras whose video is missing or cannot be read."""


def find_leaks(
    takes: Sequence[TakeFacts], split_of: Mapping[str, Split], thumbnails: Thumbnails | None = None
) -> list[Leak]:
    """What each two splits share, kind by kind; a kind that is not shared has a count of 0.

    `select` never puts a take into two splits; takes are counted for split files from elsewhere.
    """
    values_by_kind: dict[str, dict[str, set[Hashable]]] = {
        "take": {take.take_uid: {take.take_name} for take in takes},
        "capture": {take.take_uid: {take.capture} for take in takes},
        "participant": {
            take.take_uid: set() if take.participant is None else {take.participant}
            for take in takes
        },
        # `bowl_0` and `bowl_1` are both a bowl.
        "object name": {
            take.take_uid: {
                re.sub(r"[_ ]\d+$", "", name.strip().casefold()) for name in take.objects
            }
            for take in takes
        },
    }
    present = [split for split in Split if split in set(split_of.values())]
    split_pairs = list(combinations(present, 2))
    leaks = []
    for kind, values in values_by_kind.items():
        for pair in split_pairs:
            in_first, in_second = (
                [values[uid] for uid, of_take in split_of.items() if of_take is split]
                for split in pair
            )
            second = set[Hashable]().union(*in_second)
            shared = set[Hashable]().union(*in_first) & second
            touched = sum(bool(of_take & shared) for of_take in in_second)
            examples = tuple(sorted(str(value) for value in shared)[:_EXAMPLES])
            leaks.append(Leak(kind, pair, len(shared), len(second), touched, examples))
    if thumbnails is not None:
        names = {take.take_uid: take.take_name for take in takes}
        leaks += [_near_identical(thumbnails, split_of, names, pair) for pair in split_pairs]
    return leaks


def leaks_text(leaks: Sequence[Leak], thumbnails: Thumbnails | None = None) -> str:
    """The report as a table."""
    header = ["shared", "splits", "count", "of", "takes", "such as"]
    rows = [
        [
            leak.kind,
            f"{leak.splits[0]} & {leak.splits[1]}",
            f"{leak.shared:,}",
            f"{leak.total:,}",
            f"{leak.takes:,}",
            ", ".join(leak.examples),
        ]
        for leak in leaks
    ]
    text = text_table(header, rows)
    if thumbnails is None:
        return text + "\nFrames were not compared: there are no videos."
    lines = [text, f"{len(thumbnails.frames):,} frames were compared."]
    if thumbnails.missing:
        lines.append(f"{thumbnails.missing:,} cameras have no readable video.")
    return "\n".join(lines)


def video_thumbnails(
    release: Release, takes: Sequence[TakeFacts], *, per_camera: int = 2
) -> Thumbnails | None:
    """Thumbnails of annotated frames, evenly spread over each camera's video.

    Reads the 448-pixel copy where it exists. Returns None where no take has a video.
    """
    jobs = [(take, camera) for take in takes for camera in take.cameras]
    with ThreadPoolExecutor(available_cores()) as pool:  # decoding releases the GIL
        results = list(
            pool.map(lambda job: _camera_thumbnails(release, job[0], job[1], per_camera), jobs)
        )
    if all(result is None for result in results):
        return None
    named = [item for result in results for item in result or ()]
    return Thumbnails(
        frames=[frame for frame, _ in named],
        vectors=np.stack([vector for _, vector in named])
        if named
        else np.zeros((0, 0), np.float32),
        missing=sum(result is None for result in results),
    )


def thumbnail(rgb: Bytes) -> Float32 | None:
    """(H, W, 3) → its unit vector, or None for an image of one colour, which has no correlation."""
    # Averaging over areas removes noise and compression; centring removes the exposure.
    small = cv2.resize(rgb, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA)
    vector = small.astype(np.float32).ravel()
    vector -= vector.mean()
    length = float(np.linalg.norm(vector))
    # Less than one grey level of deviation: the correlation would compare noise.
    return None if length < np.sqrt(vector.size) else vector / length


def _camera_thumbnails(
    release: Release, take: TakeFacts, camera: str, count: int
) -> list[tuple[tuple[str, str, int], Float32]] | None:
    idxs = np.asarray(take.frame_idxs)
    sample = idxs[np.linspace(0, len(idxs) - 1, min(count, len(idxs))).astype(int)].tolist()
    # The small copy first: a thumbnail needs few pixels, and it decodes many times faster.
    for short_side in (DOWNSCALED_448, None):
        path = release.find_video(take.take_name, camera, short_side=short_side)
        if not path.is_file():
            continue
        named = []
        try:
            for frame_idx, rgb in read_frames(path, sample, threads=1):
                if (vector := thumbnail(rgb)) is not None:
                    named.append(((take.take_uid, camera, frame_idx), vector))
        except DataError:
            if not named:
                continue  # the other copy may be intact
        return named
    return None


def _near_identical(
    thumbnails: Thumbnails,
    split_of: Mapping[str, Split],
    take_names: Mapping[str, str],
    pair: tuple[Split, Split],
) -> Leak:
    """Frames of the second split that are near-identical to a frame of the first."""
    split = np.array([split_of.get(frame[0], "") for frame in thumbnails.frames])
    first, second = (np.flatnonzero(split == name) for name in pair)
    best = np.full(len(second), -1.0, np.float32)
    match = np.zeros(len(second), np.int64)
    for start in range(0, len(first), _CHUNK):
        rows = first[start : start + _CHUNK]
        correlations = thumbnails.vectors[second] @ thumbnails.vectors[rows].T  # (second, chunk)
        column = correlations.argmax(axis=1)
        value = correlations[np.arange(len(second)), column]
        better = value > best
        best[better], match[better] = value[better], rows[column[better]]
    leaking = np.flatnonzero(best >= NEAR_IDENTICAL)
    labels = [f"{take_names[uid]}/{camera}/{idx}" for uid, camera, idx in thumbnails.frames]
    strongest = leaking[np.argsort(-best[leaking], kind="stable")][:_EXAMPLES].tolist()
    examples = tuple(f"{labels[second[idx]]} like {labels[match[idx]]}" for idx in strongest)
    takes = len({thumbnails.frames[second[idx]][0] for idx in leaking.tolist()})
    return Leak("near-identical frame", pair, len(leaking), len(second), takes, examples)
