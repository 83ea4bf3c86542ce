"""Calm releases stay what they were; lively ones are as hard to follow as they say."""

import json
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from egoexo_tools.arrays import Bool, Bytes, Float64
from egoexo_tools.errors import SettingsError
from egoexo_tools.layout import Release
from egoexo_tools.synthetic import SyntheticOptions, synthesize
from egoexo_tools.synthetic.cameras import HeadMotion
from egoexo_tools.synthetic.objects import FEWEST_OBJECTS, LOOK_ALIKES
from egoexo_tools.synthetic.options import FPS, Motion
from egoexo_tools.synthetic.render import Painter
from egoexo_tools.synthetic.takes import TakePlan, draw_take, plan_takes
from egoexo_tools.vocab import Split

CALM_SCENES = Path(__file__).parents[2] / "data" / "calm_scene.json"
"""Takes as they were drawn before there was any other motion."""
TAKES = SyntheticOptions(
    scale=0.1, train_takes=3, val_takes=0, test_takes=0, annotated_frames=16, exo_cameras=1
)


def test_calm_takes_are_drawn_as_they_have_always_been() -> None:
    options = SyntheticOptions(annotated_frames=6)
    plans = {f"{plan.split}.{plan.number}": plan for plan in plan_takes(options)}
    for key, before in json.loads(CALM_SCENES.read_text()).items():
        scene, places, rng = draw_take(plans[key], options)
        assert plans[key].take_name == before["take"]
        # The textures come last: another draw before them would have changed them all.
        textures = scene.textures
        means = [part.mean() for part in (textures.solids, textures.table, textures.room)]
        assert means == pytest.approx(before["textures"], abs=1e-4)
        for frame_idx, (count, centres) in before["solids"].items():
            solids = scene.solids(int(frame_idx))
            assert len(solids) == count  # hands at work are among them
            np.testing.assert_allclose(solids["centre"], centres, atol=2e-5)
        for frame_idx, axis in before["head"].items():
            assert isinstance(places[0], HeadMotion)
            turned = places[0].camera(int(frame_idx), 100, 100).rotation[2]
            np.testing.assert_allclose(turned, axis, atol=2e-5)
        assert rng.integers(2**31) == before["next"], "the annotation draws otherwise"


def test_a_calm_release_does_not_know_of_another_motion(tmp_path: Path) -> None:
    options = replace(TAKES, annotated_frames=1, train_takes=1)
    calm = synthesize(tmp_path / "calm", options, quiet=True, workers=1)
    assert "motion" not in json.loads((calm.path / "synthetic.json").read_bytes())
    lively = replace(options, motion=Motion.LIVELY)
    with pytest.raises(SettingsError, match="motion=calm, now lively"):
        synthesize(calm.path, lively, quiet=True, workers=1)
    other = synthesize(tmp_path / "lively", lively, quiet=True, workers=1)
    kept = json.loads((other.path / "synthetic.json").read_bytes())
    assert SyntheticOptions(**kept) == lively
    with pytest.raises(SettingsError, match="motion=lively, now calm"):
        synthesize(other.path, options, quiet=True, workers=1)
    assert _bytes(synthesize(other.path, lively, quiet=True, workers=1)) == _bytes(other)


def _bytes(release: Release) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in release.path.rglob("*.json")}


def test_another_motion_is_refused() -> None:
    with pytest.raises(SettingsError, match="motion is 'wild'; use calm or lively"):
        SyntheticOptions(motion="wild")  # type: ignore[arg-type]


@dataclass(frozen=True)
class Seen:
    """The masks of a take's objects at the annotated instants, T of O objects."""

    ego: Float64
    """(T, O, 2) centres x, y in shares of the frame's width; NaN where not visible."""
    exo: Float64
    degrees_per_second: Float64
    """Of the head, between pictures a fifteenth of a second apart."""


@cache
def seen(motion: Motion) -> list[Seen]:
    options = replace(TAKES, motion=motion)
    return [_see(plan, options) for plan in plan_takes(options)]


def _see(plan: TakePlan, options: SyntheticOptions) -> Seen:
    scene, places, _ = draw_take(plan, options)
    head, exo = places[:2]
    assert isinstance(head, HeadMotion) and not isinstance(exo, HeadMotion)
    ego, fixed = [], []
    painters = [Painter(*hw, scene.textures) for hw in ((140, 140), (216, 384))]
    still = exo.camera(216, 384)
    for frame_idx in options.annotated:
        solids = scene.solids(frame_idx)
        painters[0].paint(head.camera(frame_idx, 140, 140), solids, scene.textures.table)
        painters[1].paint(still, solids, scene.textures.table)
        ego.append(_centres(painters[0].ids, len(scene.objects)))
        fixed.append(_centres(painters[1].ids, len(scene.objects)))
    axes = [head.camera(n, 100, 100).rotation[2] for n in range(0, options.frames, 2)]
    cosines = [float(a @ b) for a, b in zip(axes, axes[1:], strict=False)]
    turns = np.degrees(np.arccos(np.clip(cosines, -1, 1))) * FPS / 2
    return Seen(np.stack(ego), np.stack(fixed), turns)


def _centres(ids: Bytes, count: int) -> Float64:
    out = np.full((count, 2), np.nan)
    for number in range(count):
        ys, xs = np.nonzero(ids == number + 1)
        if len(ys) >= 12:
            out[number] = np.array([xs.mean(), ys.mean()]) / ids.shape[1]
    return out


def moved_in_exo(take: Seen) -> Bool:
    """(T - 1, O) whether an object is elsewhere in the exo picture a second later."""
    return np.asarray(np.linalg.norm(np.diff(take.exo, axis=0), axis=-1) > 0.02)


def gaps(centres: Float64) -> int:
    """Objects that are seen, then not, and then again."""
    there = ~np.isnan(centres[..., 0])
    found = 0
    for track in there.T:
        (times,) = np.nonzero(track)
        found += times.size > 1 and not track[times[0] : times[-1]].all()
    return found


def crossings(take: Seen) -> int:
    """Pairs of look-alikes of which each is later seen on the other side of the other."""
    found, count = 0, take.exo.shape[1]
    for number in range(LOOK_ALIKES):
        apart = take.exo[:, number] - take.exo[:, count - LOOK_ALIKES + number]
        apart = apart[~np.isnan(apart[:, 0])]
        unit = apart / np.linalg.norm(apart, axis=1, keepdims=True)
        found += bool(((unit @ unit.T) < -0.9).any())
    return found


def test_handled_objects_move_in_the_exo_view() -> None:
    calm, lively = (
        np.mean([moved_in_exo(take).mean() for take in seen(motion)]) for motion in Motion
    )
    assert lively > 1.4 * calm
    most = max(int(moved_in_exo(take).sum(axis=0).max()) for take in seen(Motion.LIVELY))
    assert most >= 4, "one thing is moved again and again"


def test_the_head_turns_quickly() -> None:
    calm, lively = ([take.degrees_per_second.max() for take in seen(motion)] for motion in Motion)
    assert max(calm) < 60 < 150 < min(lively)


def test_objects_leave_every_view_and_come_back() -> None:
    for take in seen(Motion.LIVELY):
        nowhere = np.isnan(take.exo[..., 0]) & np.isnan(take.ego[..., 0])
        assert nowhere.any(axis=0).sum() >= 2
    calm, lively = (sum(gaps(take.exo) for take in seen(motion)) for motion in Motion)
    assert lively >= 6 > calm


def test_look_alikes_change_places() -> None:
    calm, lively = (sum(crossings(take) for take in seen(motion)) for motion in Motion)
    assert lively == LOOK_ALIKES * TAKES.train_takes > 2 * calm


def test_two_things_that_cross_keep_their_distance() -> None:
    options = replace(TAKES, motion=Motion.LIVELY)
    for plan in plan_takes(options):
        scene, _, _ = draw_take(plan, options)
        swap = [move for move in scene.moves if move.bend]
        assert len(swap) >= 4 and len(swap) % 2 == 0
        for one, other in zip(swap[::2], swap[1::2], strict=True):
            assert one.left != other.left and one.start_seconds == other.start_seconds
            frames = range(int(one.start_seconds * FPS), int(one.end_seconds * FPS) + 2)
            centres = [scene.solids(n)["centre"][[one.item, other.item], :2] for n in frames]
            assert min(np.linalg.norm(a - b) for a, b in centres) > 0.1


def test_no_hand_has_two_things_and_nothing_is_moved_by_both() -> None:
    options = replace(TAKES, motion=Motion.LIVELY)
    for plan in plan_takes(options):
        moves = draw_take(plan, options)[0].moves
        assert all(move.end_seconds <= options.frames / FPS for move in moves)
        for key in ("left", "item"):
            for value in {getattr(move, key) for move in moves}:
                mine = [move for move in moves if getattr(move, key) == value]
                for before, after in zip(mine, mine[1:], strict=False):
                    assert before.end_seconds <= after.start_seconds


@pytest.mark.parametrize("objects", [FEWEST_OBJECTS, FEWEST_OBJECTS + 1, 20])
@pytest.mark.parametrize("frames", [1, 2, 5])
def test_short_takes_with_few_objects_are_drawn_too(objects: int, frames: int) -> None:
    options = replace(
        TAKES, motion=Motion.LIVELY, objects_per_take=objects, annotated_frames=frames
    )
    for plan in plan_takes(options):
        scene, _, _ = draw_take(plan, options)
        assert len(scene.solids(options.frames - 1)) >= FEWEST_OBJECTS


def test_a_lively_release_has_the_shipped_layout(tmp_path: Path) -> None:
    options = replace(TAKES, train_takes=1, annotated_frames=3, motion=Motion.LIVELY, motion_fps=1)
    release = synthesize(tmp_path, options, quiet=True, workers=1).require()
    (take,) = json.loads(release.takes_json.read_bytes())
    relations = json.loads(release.relations_json(Split.TRAIN).read_bytes())["annotations"]
    objects = relations[take["take_uid"]]["object_masks"]
    tracks = [track for cameras in objects.values() for track in cameras.values()]
    assert any(len(track["annotation"]) == 3 for track in tracks)
