"""Lively takes are as difficult to track as documented."""

import json
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from egoexo_tools.arrays import Bool, Bytes, Float64
from egoexo_tools.synthetic import SyntheticOptions, synthesize
from egoexo_tools.synthetic.cameras import HeadMotion
from egoexo_tools.synthetic.objects import FEWEST_OBJECTS, LOOK_ALIKES
from egoexo_tools.synthetic.options import FPS, Motion
from egoexo_tools.synthetic.render import Painter
from egoexo_tools.synthetic.takes import TakePlan, draw_take, plan_takes
from egoexo_tools.vocab import Split

TAKES = SyntheticOptions(
    scale=0.1, train_takes=3, val_takes=0, test_takes=0, annotated_frames=16, exo_cameras=1
)


@dataclass(frozen=True)
class TakeMotion:
    """Positions of O objects at the T annotated instants of a take, and the speed of the head."""

    ego: Float64
    """(T, O, 2) centres x, y, as shares of the frame's width; NaN if not visible."""
    exo: Float64
    """The same in the exo camera."""
    degrees_per_second: Float64
    """Rotation of the head, between frames 1/15 s apart."""


@cache
def observed_motion(motion: Motion) -> list[TakeMotion]:
    options = replace(TAKES, motion=motion)
    return [observe(plan, options) for plan in plan_takes(options)]


def observe(plan: TakePlan, options: SyntheticOptions) -> TakeMotion:
    scene, places, _ = draw_take(plan, options)
    head, exo = places[:2]
    assert isinstance(head, HeadMotion) and not isinstance(exo, HeadMotion)
    ego_centres, exo_centres = [], []
    painters = [Painter(*hw, scene.textures) for hw in ((140, 140), (216, 384))]
    exo_camera = exo.camera(216, 384)
    for frame_idx in options.annotated:
        solids = scene.solids(frame_idx)
        painters[0].paint(head.camera(frame_idx, 140, 140), solids, scene.textures.table)
        painters[1].paint(exo_camera, solids, scene.textures.table)
        ego_centres.append(mask_centres(painters[0].ids, len(scene.objects)))
        exo_centres.append(mask_centres(painters[1].ids, len(scene.objects)))
    axes = [head.camera(n, 100, 100).rotation[2] for n in range(0, options.frames, 2)]
    cosines = [float(a @ b) for a, b in pairwise(axes)]
    turns = np.degrees(np.arccos(np.clip(cosines, -1, 1))) * FPS / 2
    return TakeMotion(np.stack(ego_centres), np.stack(exo_centres), turns)


def mask_centres(ids: Bytes, count: int) -> Float64:
    out = np.full((count, 2), np.nan)
    for number in range(count):
        ys, xs = np.nonzero(ids == number + 1)
        if len(ys) >= 12:
            out[number] = np.array([xs.mean(), ys.mean()]) / ids.shape[1]
    return out


def exo_movements(take: TakeMotion) -> Bool:
    """(T - 1, O) whether an object is at another place in the exo view a second later."""
    return np.asarray(np.linalg.norm(np.diff(take.exo, axis=0), axis=-1) > 0.02)


def count_gaps(centres: Float64) -> int:
    """The number of objects that disappear and come back."""
    visible = ~np.isnan(centres[..., 0])
    count = 0
    for track in visible.T:
        (times,) = np.nonzero(track)
        count += times.size > 1 and not track[times[0] : times[-1]].all()
    return count


def count_swaps(take: TakeMotion) -> int:
    """The number of pairs of look-alikes whose order is reversed at a later time."""
    swaps, objects = 0, take.exo.shape[1]
    for number in range(LOOK_ALIKES):
        offset = take.exo[:, number] - take.exo[:, objects - LOOK_ALIKES + number]
        offset = offset[~np.isnan(offset[:, 0])]
        direction = offset / np.linalg.norm(offset, axis=1, keepdims=True)
        swaps += bool(((direction @ direction.T) < -0.9).any())
    return swaps


@pytest.mark.slow
def test_objects_move_more_in_the_exo_view() -> None:
    calm, lively = (
        np.mean([exo_movements(take).mean() for take in observed_motion(motion)])
        for motion in Motion
    )
    assert lively > 1.4 * calm
    most = max(
        int(exo_movements(take).sum(axis=0).max()) for take in observed_motion(Motion.LIVELY)
    )
    assert most >= 4, "an object is moved repeatedly"


@pytest.mark.slow
def test_the_head_turns_quickly() -> None:
    calm, lively = (
        [take.degrees_per_second.max() for take in observed_motion(motion)] for motion in Motion
    )
    assert max(calm) < 60 < 150 < min(lively)


@pytest.mark.slow
def test_objects_leave_every_view_and_come_back() -> None:
    for take in observed_motion(Motion.LIVELY):
        invisible = np.isnan(take.exo[..., 0]) & np.isnan(take.ego[..., 0])
        assert invisible.any(axis=0).sum() >= 2
    calm, lively = (
        sum(count_gaps(take.exo) for take in observed_motion(motion)) for motion in Motion
    )
    assert lively >= 6 > calm


def test_look_alikes_swap_places() -> None:
    calm, lively = (sum(count_swaps(take) for take in observed_motion(motion)) for motion in Motion)
    assert lively == LOOK_ALIKES * TAKES.train_takes > 2 * calm


def test_swapped_objects_keep_their_distance() -> None:
    options = replace(TAKES, motion=Motion.LIVELY)
    for plan in plan_takes(options):
        scene, _, _ = draw_take(plan, options)
        swaps = [move for move in scene.moves if move.bend]
        assert len(swaps) >= 4 and len(swaps) % 2 == 0
        for first, second in zip(swaps[::2], swaps[1::2], strict=True):
            assert first.left_hand != second.left_hand
            assert first.start_seconds == second.start_seconds
            frames = range(int(first.start_seconds * FPS), int(first.end_seconds * FPS) + 2)
            centres = [scene.solids(n)["centre"][[first.item, second.item], :2] for n in frames]
            assert min(np.linalg.norm(a - b) for a, b in centres) > 0.1


def test_moves_of_a_hand_and_of_an_object_do_not_overlap() -> None:
    options = replace(TAKES, motion=Motion.LIVELY)
    for plan in plan_takes(options):
        moves = draw_take(plan, options)[0].moves
        assert all(move.end_seconds <= options.frames / FPS for move in moves)
        for key in ("left_hand", "item"):
            for value in {getattr(move, key) for move in moves}:
                successive = [move for move in moves if getattr(move, key) == value]
                for before, after in pairwise(successive):
                    assert before.end_seconds <= after.start_seconds


@pytest.mark.slow
@pytest.mark.parametrize("objects", [FEWEST_OBJECTS, FEWEST_OBJECTS + 1, 20])
@pytest.mark.parametrize("frames", [1, 2, 5])
def test_short_takes_with_few_objects_can_be_drawn(objects: int, frames: int) -> None:
    options = replace(
        TAKES, motion=Motion.LIVELY, objects_per_take=objects, annotated_frames=frames
    )
    for plan in plan_takes(options):
        scene, _, _ = draw_take(plan, options)
        assert len(scene.solids(options.frames - 1)) >= FEWEST_OBJECTS


def test_a_lively_release_has_annotated_tracks(tmp_path: Path) -> None:
    options = replace(TAKES, train_takes=1, annotated_frames=3, motion=Motion.LIVELY, motion_fps=1)
    release = synthesize(tmp_path, options, quiet=True, workers=1).require()
    (take,) = json.loads(release.takes_json.read_bytes())
    relations = json.loads(release.relations_json(Split.TRAIN).read_bytes())["annotations"]
    objects = relations[take["take_uid"]]["object_masks"]
    tracks = [track for cameras in objects.values() for track in cameras.values()]
    assert any(len(track["annotation"]) == 3 for track in tracks)
