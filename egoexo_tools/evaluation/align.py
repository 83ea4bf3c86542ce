"""Matches the predictions of a take with its ground truth: which samples a protocol scores.

official: every source frame that is in the destination's annotated_frames. omama: every predicted
pair. lm-eec: every predicted frame. Entries that do not fit are counted by kind, with the first
examples; nothing is left out silently.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from egoexo_tools.arrays import Bool, Float64, Int64
from egoexo_tools.errors import DataError
from egoexo_tools.evaluation.ground_truth import cameras_of_view
from egoexo_tools.evaluation.predictions import TakeMasks, parse_confidence
from egoexo_tools.masks.columns import MaskColumns
from egoexo_tools.masks.rle import MaskRle
from egoexo_tools.masks.rle_loops import MAX_SIDE
from egoexo_tools.parsing.names import match_names
from egoexo_tools.runs import join_pair_id
from egoexo_tools.vocab import Direction, Protocol

MOST_EXAMPLES = 3
"""Examples stored per kind of problem."""

PROBLEM_KINDS: Mapping[str, str] = {
    "missing_take": "takes without predictions",
    "missing_object": "objects without predictions",
    "missing_pair": "camera pairs without predictions",
    "missing_frame": "frames without a prediction",
    "extra_take": "takes that the ground truth does not have",
    "extra_object": "objects that the ground truth does not have",
    "extra_pair": "camera pairs that the ground truth does not have",
    "extra_frame": "frames in which the source has no mask",
    "bad_entry": "predictions that are not {pred_mask: {size, counts}, confidence}",
    "bad_confidence": "confidences that are not finite numbers",
    "bad_mask": "predicted masks with broken run lengths",
    "bad_truth": "ground-truth masks with broken run lengths",
    "wrong_size": "masks of another size than the official protocol compares at "
    "(--resize-predictions resizes them)",
}
"""Kind of problem → heading of its list in a message."""


@dataclass
class Problems:
    """Entries that do not fit: their number and first examples by kind."""

    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def add(self, kind: str, example: str) -> None:
        self.counts[kind] += 1
        examples = self.examples.setdefault(kind, [])
        if len(examples) < MOST_EXAMPLES:
            examples.append(example)

    def update(self, other: "Problems") -> None:
        self.counts.update(other.counts)
        for kind, examples in other.examples.items():
            merged = self.examples.get(kind, []) + examples
            self.examples[kind] = merged[:MOST_EXAMPLES]

    def text(self) -> str:
        """A line for each kind that occurs, in the order of PROBLEM_KINDS."""
        return "\n".join(
            f"  {self.counts[kind]:,} {heading}: " + "; ".join(self.examples[kind])
            for kind, heading in PROBLEM_KINDS.items()
            if self.counts[kind]
        )

    def to_json(self) -> dict[str, Any]:
        return {
            kind: {"count": self.counts[kind], "examples": self.examples[kind]}
            for kind in PROBLEM_KINDS
            if self.counts[kind]
        }


@dataclass(frozen=True)
class TakeSamples:
    """The n samples of one take as columns, track by track, frames ascending."""

    take_uid: str
    object_names: list[str]
    source_cameras: list[str]
    dest_cameras: list[str]
    frame_idxs: Int64
    confidences: Float64
    """(n,) NaN if not given; it then follows from the mask's area."""
    predicted: MaskColumns
    truth: MaskColumns
    """No mask if the object is absent."""
    ranked: list[list[int] | None]
    """Indices of the proposals that the run ranked first, best first; None if not stored."""
    expected: int
    """Number of samples that the protocol requires, predicted or not."""
    unannotated: int
    """Number of samples whose destination frame is not annotated; they count as absent."""

    def __len__(self) -> int:
        return len(self.frame_idxs)

    @property
    def visible(self) -> Bool:
        """(n,) whether the truth has a mask."""
        return self.truth.heights > 0

    def pair_ids(self) -> list[str]:
        return [
            join_pair_id(self.take_uid, *key)
            for key in zip(
                self.source_cameras,
                self.dest_cameras,
                self.frame_idxs.tolist(),
                self.object_names,
                strict=True,
            )
        ]

    def describe(self, sample: int) -> str:
        """A sample's name in messages."""
        cameras = f"{self.source_cameras[sample]}_{self.dest_cameras[sample]}"
        return (
            f"take {self.take_uid}, {self.object_names[sample]!r}, {cameras}, "
            f"frame {self.frame_idxs[sample]}"
        )


@dataclass(frozen=True)
class _TruthTrack:
    """The ground truth of one object from a source camera to a destination camera."""

    object_name: str
    source: str
    dest: str
    source_masks: Mapping[str, Any]
    dest_masks: Mapping[str, Any]
    annotated: frozenset[int]
    """The annotated frames of the destination, with the object or without it."""

    @property
    def pair(self) -> str:
        return f"{self.source}_{self.dest}"


@dataclass(frozen=True)
class _Sample:
    track: _TruthTrack
    frame_idx: int
    predicted: MaskRle
    confidence: float
    ranked: list[int] | None
    truth: MaskRle | None


def match_take(
    take_uid: str,
    truth: Mapping[str, Any],
    predicted: TakeMasks | None,
    *,
    direction: Direction,
    protocol: Protocol,
    problems: Problems,
) -> TakeSamples:
    """The samples of one take; `predicted` is None if the predictions do not have the take."""
    masks = truth["masks"]
    if predicted is None and protocol is Protocol.OFFICIAL:
        problems.add("missing_take", take_uid)
    names = match_names(predicted or (), sorted(masks))
    pairs_by_object = {names.get(name, name): pairs for name, pairs in (predicted or {}).items()}
    samples: list[_Sample] = []
    expected = 0
    for name in sorted(masks):
        where = f"take {take_uid}, {name!r}"
        pairs = pairs_by_object.get(name)
        if name not in pairs_by_object:
            # Only the official protocol requires predictions for every object of a take.
            if protocol is not Protocol.OFFICIAL:
                continue
        elif not isinstance(pairs, dict):
            problems.add("bad_entry", where)
            continue
        object_samples, object_expected = _match_object(
            _truth_tracks(truth, name, direction), pairs, where, protocol, problems
        )
        if pairs is None and predicted is not None and object_expected:
            problems.add("missing_object", where)
        samples += object_samples
        expected += object_expected
    for name in sorted(pairs_by_object):
        if name not in masks:
            problems.add("extra_object", f"take {take_uid}, {name!r}")
    return TakeSamples(
        take_uid=take_uid,
        object_names=[sample.track.object_name for sample in samples],
        source_cameras=[sample.track.source for sample in samples],
        dest_cameras=[sample.track.dest for sample in samples],
        frame_idxs=np.array([sample.frame_idx for sample in samples], np.int64),
        confidences=np.array([sample.confidence for sample in samples], np.float64),
        predicted=MaskColumns.from_rles([sample.predicted for sample in samples]),
        truth=MaskColumns.from_rles([sample.truth for sample in samples]),
        ranked=[sample.ranked for sample in samples],
        expected=expected,
        unannotated=sum(sample.frame_idx not in sample.track.annotated for sample in samples),
    )


def _truth_tracks(truth: Mapping[str, Any], name: str, direction: Direction) -> list[_TruthTrack]:
    """Every source camera of an object with every destination camera."""
    cameras = truth["masks"][name]
    annotated = truth.get("annotated_frames", {}).get(name, {})
    # In a sample of fifty real takes no object has more than one exo camera, but the format allows
    # it.
    return [
        _TruthTrack(
            name,
            source,
            dest,
            source_masks=cameras[source] or {},
            dest_masks=cameras[dest] or {},
            annotated=frozenset(annotated.get(dest, ())),
        )
        for source in cameras_of_view(cameras, direction.source)
        for dest in cameras_of_view(cameras, direction.dest)
    ]


def _match_object(
    tracks: list[_TruthTrack],
    pairs: Mapping[str, Any] | None,
    where: str,
    protocol: Protocol,
    problems: Problems,
) -> tuple[list[_Sample], int]:
    """The samples of an object, and how many the protocol requires."""
    samples: list[_Sample] = []
    expected = 0
    for track in tracks:
        entries = (pairs or {}).get(track.pair)
        if protocol is Protocol.OFFICIAL:
            # Annotated frames without the object count too, for visibility; frames that are not
            # annotated in the destination do not. Pair files contain both.
            frames = [idx for key in track.source_masks if (idx := int(key)) in track.annotated]
        else:
            # Frames without a prediction do not count as missing, so these scores cannot be
            # compared with official ones.
            keys = entries if isinstance(entries, dict) else ()
            frames = [int(key) for key in keys if key in track.source_masks]
        expected += len(frames)
        if track.pair not in (pairs or {}):
            # A missing object is reported once, not once per camera pair.
            if frames and pairs is not None:
                problems.add("missing_pair", f"{where}, {track.pair}")
        elif not isinstance(entries, dict):
            problems.add("bad_entry", f"{where}, {track.pair}")
        else:
            samples += _match_frames(track, sorted(frames), entries, where, problems)
    for pair in sorted(set(pairs or {}) - {track.pair for track in tracks}):
        problems.add("extra_pair", f"{where}, {pair}")
    return samples, expected


def _match_frames(
    track: _TruthTrack,
    frame_idxs: list[int],
    entries: Mapping[str, Any],
    where: str,
    problems: Problems,
) -> list[_Sample]:
    samples = []
    for key in entries:
        if key not in track.source_masks:
            problems.add("extra_frame", f"{where}, {track.pair}, frame {key}")
    for frame_idx in frame_idxs:
        key = str(frame_idx)
        frame_text = f"{where}, {track.pair}, frame {key}"
        if key not in entries:
            problems.add("missing_frame", frame_text)
            continue
        # Both are parsed before either is refused, so that both problems are reported.
        prediction = parse_prediction(entries[key], frame_text, problems)
        truth = None
        if key in track.dest_masks:
            try:
                truth = parse_mask(track.dest_masks[key])
            except (DataError, KeyError, TypeError, ValueError):
                problems.add("bad_truth", frame_text)
                continue
        if prediction is not None:
            samples.append(_Sample(track, frame_idx, *prediction, truth))
    return samples


def parse_prediction(
    entry: Any, where: str, problems: Problems
) -> tuple[MaskRle, float, list[int] | None] | None:
    """Mask, confidence (NaN: not given) and ranked proposals; None after adding a problem."""
    try:
        mask = parse_mask(entry["pred_mask"])
        confidence = entry["confidence"]
    except (DataError, KeyError, TypeError, ValueError):
        problems.add("bad_entry", where)
        return None
    try:
        number = parse_confidence(confidence)
    except DataError:
        problems.add("bad_confidence", f"{where} ({confidence!r})")
        return None
    ranked = entry.get("top_proposal_idxs")
    # Other programs may store something else under this name; it is ignored.
    is_ranking = isinstance(ranked, list) and all(
        type(idx) is int and 0 <= idx < 2**31 for idx in ranked
    )
    return mask, np.nan if number is None else number, ranked if is_ranking else None


def parse_mask(value: Any) -> MaskRle:
    """Stricter than `MaskRle.from_json`: the official file stores counts as text only."""
    height, width = value["size"]
    counts = value["counts"]
    if not (type(height) is type(width) is int and isinstance(counts, str)):
        raise DataError("size or counts have the wrong type")
    if not (0 < height <= MAX_SIDE and 0 < width <= MAX_SIDE):
        raise DataError(f"sides must be from 1 to {MAX_SIDE}")
    return MaskRle(height, width, counts)
