"""Clips with random candidates for the tests of decisions, and a bucket of one frame pair."""

from dataclasses import replace

import numpy as np
import torch

from egoexo_tools.arrays import Float32, Float64
from omama.deciding.clips import Clip
from omama.deciding.decide import Parameters
from omama.matching.matchers import MatchScores
from omama.matching.samples import Bucket, Truth

FRAMES, OBJECTS, TOP, WIDTH = 5, 6, 4, 6
PARAMETERS = Parameters(temperature=0.2, absent_at=0.0, repulsion=1.5, votes=6.0, layout=2.0)
_PER_PAIR = (
    "exists",
    "proposal",
    "similarity",
    "source_embedding",
    "embedding",
    "appearance",
    "boxes",
    "source_boxes",
)


def make_clip(seed: int = 0, *, frames: int = FRAMES, camera_moves: bool = False) -> Clip:
    """Random appearances and boxes; one candidate of each frame is padding, one pair is missing."""
    rng = np.random.default_rng(seed)
    shape = (frames, OBJECTS, TOP)
    proposal = np.tile(np.arange(TOP), (frames, OBJECTS, 1))
    proposal[:, 1, 3] = -1
    exists = np.ones(shape[:2], np.bool_)
    if frames > 1:
        exists[1, 2], proposal[1, 2] = False, -1
    is_proposal = proposal >= 0
    corner = rng.uniform(0, 0.7, (*shape, 2))
    similarity = rng.uniform(-0.2, 0.9, shape) + np.array([0.8, 0, 0, 0])
    random_ious = rng.uniform(0, 1, (frames, OBJECTS * TOP, OBJECTS * TOP))
    is_pair = is_proposal.reshape(frames, -1, 1) & is_proposal.reshape(frames, 1, -1)
    overlap = np.maximum(random_ious, random_ious.swapaxes(1, 2)) * is_pair
    diagonal = np.arange(OBJECTS * TOP)
    overlap[:, diagonal, diagonal] = is_proposal.reshape(frames, -1)
    time, item = np.nonzero(exists)
    source_embedding = _unit(rng.normal(size=(*shape[:2], WIDTH))) * exists[..., None]
    embedding = _unit(rng.normal(size=(*shape, WIDTH))) * is_proposal[..., None]
    appearance = _unit(rng.normal(size=(*shape, WIDTH))) * is_proposal[..., None]
    boxes = np.concatenate([corner, corner + rng.uniform(0.1, 0.3, (*shape, 2))], -1)
    return Clip(
        row=np.arange(time.size),
        time=time,
        item=item,
        frame_idx=30 * np.arange(frames),
        camera_moves=camera_moves,
        exists=exists,
        proposal=proposal,
        similarity=np.where(is_proposal, similarity, -np.inf).astype(np.float32),
        source_embedding=source_embedding,
        embedding=embedding,
        appearance=appearance,
        boxes=boxes.astype(np.float32),
        source_boxes=_arranged_like(corner[:, :, 0], rng),
        overlap=overlap.astype(np.float32),
    )


def _unit(values: Float64) -> Float32:
    return (values / np.linalg.norm(values, axis=-1, keepdims=True)).astype(np.float32)


def _arranged_like(centres: Float64, rng: np.random.Generator) -> Float32:
    """Boxes in another view, roughly where one affine map takes these points."""
    mapped = centres @ np.array([[-0.7, 0.2], [0.1, 0.8]]) + [0.8, 0.1]
    return boxes_around(mapped + rng.normal(0, 0.02, mapped.shape))


def boxes_around(centres: Float64) -> Float32:
    """(..., 2) → small boxes (..., 4)."""
    return np.concatenate([centres - 0.02, centres + 0.02], axis=-1).astype(np.float32)


def first_frames(clip: Clip, frames: int) -> Clip:
    """The first frames of a clip."""
    is_first = clip.time < frames
    return replace(
        clip,
        row=clip.row[is_first],
        time=clip.time[is_first],
        item=clip.item[is_first],
        **{name: getattr(clip, name)[:frames] for name in ("frame_idx", "overlap", *_PER_PAIR)},
    )


def in_order(clip: Clip, order: list[int]) -> Clip:
    """The same clip with its objects in another order."""
    columns = (np.array(order)[:, None] * TOP + np.arange(TOP)).reshape(-1)
    return replace(
        clip,
        item=np.argsort(order)[clip.item],
        overlap=clip.overlap[:, columns][:, :, columns],
        **{name: getattr(clip, name)[:, order] for name in _PER_PAIR},
    )


def make_bucket(similarity: list[float]) -> tuple[Bucket, MatchScores]:
    """One frame pair: a source mask, and the ground truth and three proposals as rows."""
    rng, rows = np.random.default_rng(0), len(similarity)
    blank = torch.zeros(1, 2, 3, 3)
    bucket = Bucket(
        pair=torch.tensor([7]),
        group=torch.tensor([0]),
        source_row=torch.tensor([0]),
        sources=torch.zeros(1, 1, 4),
        dests=torch.from_numpy(rng.normal(size=(1, rows, 4))).float(),
        source_tokens=blank,
        dest_tokens=blank,
        is_proposal=torch.tensor([[False, True, True, True]]),
        first_proposal=torch.tensor([1]),
        truth=Truth(ious=torch.tensor([[1.0, 0.2, 0.9, 0.1]]), visible=torch.tensor([True])),
    )
    scores = MatchScores(
        similarity=torch.tensor([similarity]),
        confidence=torch.tensor([0.5]),
        source=torch.ones(1, 2),
        dests=torch.ones(1, rows, 2),
    )
    return bucket, scores
