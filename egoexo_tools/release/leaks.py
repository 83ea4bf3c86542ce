"""What the splits of a selection share that they should not: the leak report.

Takes, recording sessions (captures), participants and object names are compared by name, frames
by picture: small colour thumbnails whose correlation is almost 1. An exo camera that was not
moved between two takes gives such frames, whatever the names say.
"""

import re
from collections.abc import Hashable, Iterable, Mapping, Sequence
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
"""Correlation of two thumbnails from which on the frames count as near-identical. In synthetic
releases a still camera's own frames reach 0.87 to 0.99, and those of two takes 0.72 at most."""
_CHUNK = 2048
_EXAMPLES = 3


@dataclass(frozen=True)
class Leak:
    """What two splits share of one kind."""

    kind: str
    splits: tuple[Split, Split]
    shared: int
    """How many of the kind are in both."""
    of: int
    """How many the second split has."""
    takes: int
    """Takes of the second split that are touched."""
    examples: tuple[str, ...]


@dataclass(frozen=True)
class Thumbnails:
    """Frames as unit vectors: correlation is a product."""

    names: list[tuple[str, str, int]]
    """(take_uid, camera, frame_idx) of each."""
    vectors: Float32
    """(n, THUMBNAIL * THUMBNAIL * 3), mean 0 and length 1."""
    missing: int = 0
    """Cameras whose video is not there or cannot be read."""


def find_leaks(
    takes: Sequence[TakeFacts],
    split_of: Mapping[str, Split],
    thumbnails: Thumbnails | None = None,
) -> list[Leak]:
    """What any two splits share, kind by kind; a kind that is not shared is listed with 0.

    A take in two splits cannot come out of `select`; it is counted for split files of others.
    """
    kinds: dict[str, dict[str, set[Hashable]]] = {
        "take": {take.take_uid: {take.take_name} for take in takes},
        "capture": {take.take_uid: {take.capture} for take in takes},
        "participant": {
            take.take_uid: set() if take.participant is None else {take.participant}
            for take in takes
        },
        "object name": {take.take_uid: {_kind_of(name) for name in take.objects} for take in takes},
    }
    found = []
    names = {take.take_uid: take.take_name for take in takes}
    present = [split for split in Split if split in set(split_of.values())]
    for kind, values in kinds.items():
        for first, second in combinations(present, 2):
            found.append(_shared(kind, values, split_of, first, second))
    if thumbnails is not None:
        for first, second in combinations(present, 2):
            found.append(_near_identical(thumbnails, split_of, names, first, second))
    return found


def leaks_text(leaks: Sequence[Leak], thumbnails: Thumbnails | None = None) -> str:
    """The report as a table."""
    header = ["shared", "splits", "count", "of", "takes", "such as"]
    rows = [
        [
            leak.kind,
            f"{leak.splits[0]} & {leak.splits[1]}",
            f"{leak.shared:,}",
            f"{leak.of:,}",
            f"{leak.takes:,}",
            ", ".join(leak.examples),
        ]
        for leak in leaks
    ]
    text = text_table(header, rows)
    if thumbnails is None:
        return text + "\nFrames were not compared: there are no videos."
    lines = [text, f"{len(thumbnails.names):,} frames were compared."]
    if thumbnails.missing:
        lines.append(f"{thumbnails.missing:,} cameras have no readable video here.")
    return "\n".join(lines)


def video_thumbnails(
    release: Release, takes: Sequence[TakeFacts], *, per_camera: int = 2
) -> Thumbnails | None:
    """Thumbnails of annotated frames, evenly spread over each camera's video.

    The 448-pixel copy is read where it is there. None where no take has a video.
    """
    jobs = [(take, camera) for take in takes for camera in take.cameras]
    with ThreadPoolExecutor(available_cores()) as pool:  # decoding holds no GIL
        read = list(pool.map(lambda job: _of_camera(release, job[0], job[1], per_camera), jobs))
    if all(found is None for found in read):
        return None
    whole = [item for found in read for item in found or ()]
    vectors = [vector for _, vector in whole]
    return Thumbnails(
        names=[name for name, _ in whole],
        vectors=np.stack(vectors) if vectors else np.zeros((0, 0), np.float32),
        missing=sum(found is None for found in read),
    )


def thumbnail(rgb: Bytes) -> Float32 | None:
    """(H, W, 3) → its unit vector; None for a picture of one colour, which is like any other."""
    small = cv2.resize(rgb, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA)
    vector = small.astype(np.float32).ravel()
    vector -= vector.mean()
    length = float(np.linalg.norm(vector))
    # Less than one grey level of deviation: correlation would compare noise.
    return None if length < np.sqrt(vector.size) else vector / length


def _of_camera(
    release: Release, take: TakeFacts, camera: str, count: int
) -> list[tuple[tuple[str, str, int], Float32]] | None:
    idxs = np.asarray(take.frame_idxs)
    wanted = idxs[np.linspace(0, len(idxs) - 1, min(count, len(idxs))).astype(int)].tolist()
    for short_side in (DOWNSCALED_448, None):
        path = release.find_video(take.take_name, camera, short_side=short_side)
        if not path.is_file():
            continue
        found = []
        try:
            for frame_idx, rgb in read_frames(path, wanted, threads=1):
                if (vector := thumbnail(rgb)) is not None:
                    found.append(((take.take_uid, camera, frame_idx), vector))
        except DataError:
            if not found:
                continue  # the other copy may be whole
        return found
    return None


def _kind_of(object_name: str) -> str:
    """`bowl_0` and `bowl_1` are both a bowl."""
    return re.sub(r"[_ ]\d+$", "", object_name.strip().casefold())


def _shared(
    kind: str,
    values: Mapping[str, set[Hashable]],
    split_of: Mapping[str, Split],
    first: Split,
    second: Split,
) -> Leak:
    in_first = _union(values[uid] for uid, split in split_of.items() if split is first)
    others = [values[uid] for uid, split in split_of.items() if split is second]
    in_second = _union(others)
    both = in_first & in_second
    examples = sorted(str(value) for value in both)[:_EXAMPLES]
    touched = sum(bool(found & both) for found in others)
    return Leak(kind, (first, second), len(both), len(in_second), touched, tuple(examples))


def _union(sets: Iterable[set[Hashable]]) -> set[Hashable]:
    return set().union(*sets)


def _near_identical(
    thumbnails: Thumbnails,
    split_of: Mapping[str, Split],
    take_names: Mapping[str, str],
    first: Split,
    second: Split,
) -> Leak:
    """Frames of `second` that some frame of `first` looks like, chunk by chunk."""
    split = np.array([split_of.get(name[0], "") for name in thumbnails.names])
    ours, theirs = np.flatnonzero(split == first), np.flatnonzero(split == second)
    best = np.full(len(theirs), -1.0, np.float32)
    match = np.zeros(len(theirs), np.int64)
    for start in range(0, len(ours), _CHUNK):
        rows = ours[start : start + _CHUNK]
        alike = thumbnails.vectors[theirs] @ thumbnails.vectors[rows].T
        place = alike.argmax(axis=1)
        value = alike[np.arange(len(theirs)), place]
        better = value > best
        best[better], match[better] = value[better], rows[place[better]]
    found = np.flatnonzero(best >= NEAR_IDENTICAL)
    shown = [f"{take_names[uid]}/{camera}/{idx}" for uid, camera, idx in thumbnails.names]
    order = found[np.argsort(-best[found], kind="stable")][:_EXAMPLES]
    examples = tuple(f"{shown[theirs[idx]]} like {shown[match[idx]]}" for idx in order.tolist())
    touched = len({thumbnails.names[theirs[idx]][0] for idx in found.tolist()})
    return Leak("near-identical frame", (first, second), len(found), len(theirs), touched, examples)
