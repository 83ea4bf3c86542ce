"""A take: its metadata, its videos, and its annotation from the renderer's object ids.

An object is visible in a frame if enough of its pixels are; in all other annotated frames it is
absent. Some tracks end early, which means that their last frames were not annotated.
"""

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from lzstring import LZString
from numpy.typing import NDArray

from egoexo_tools.arrays import Bool, Bytes
from egoexo_tools.layout import Release
from egoexo_tools.masks.rle import MaskRle
from egoexo_tools.synthetic.cameras import Camera, ExoPlace, HeadMotion
from egoexo_tools.synthetic.frame_code import code_size, draw_frame_index
from egoexo_tools.synthetic.objects import FEWEST_OBJECTS
from egoexo_tools.synthetic.options import Motion, SyntheticOptions
from egoexo_tools.synthetic.render import Painter, Rect, bounds
from egoexo_tools.synthetic.scene import SHADOW_REACH, Scene, shaded_table
from egoexo_tools.synthetic.videos import open_camera_videos
from egoexo_tools.vocab import FPS, Split, View, view_of

SCENARIOS = ("Cooking", "Health", "Bike Repair", "Music")
_UNIVERSITIES = {
    "cmu": "Carnegie Mellon University",
    "georgiatech": "Georgia Institute of Technology",
    "sfu": "Simon Fraser University",
    "upenn": "University of Pennsylvania",
    "uniandes": "Universidad de los Andes",
}
_CAPTURES = uuid.UUID("7b0e4a52-3a5c-4d8b-9f56-2f4f0f1e5a11")
_EGO_CAMERAS = ("aria01_214-1", "aria01_214-1", "aria02_214-1", "aria03_214-1")
_MIN_VISIBLE_SHARE = 2e-4
"""Of the frame's pixels, for an object to count as visible."""
_MIN_VISIBLE_PIXELS = 12
_EARLY_END_SHARE = 0.12
"""Share of tracks that end early."""


@dataclass(frozen=True)
class TakePlan:
    """The properties of a take before rendering, determined by the options and its number."""

    split: Split
    number: int
    take_uid: str
    take_name: str
    scenario: str
    university_id: str
    exo_count: int
    portrait: bool

    @property
    def cameras(self) -> tuple[str, ...]:
        """Names, ego first. In a third of the takes the exo cameras are called gp01, gp02."""
        prefix = "gp" if self.number % 3 == 1 else "cam"
        exo = [f"{prefix}{number + 1:02}" for number in range(self.exo_count)]
        return (_EGO_CAMERAS[self.number % len(_EGO_CAMERAS)], *exo)

    def rng(self, options: SyntheticOptions) -> np.random.Generator:
        """The generator of this take, in the same state at every call."""
        return np.random.default_rng([options.seed, list(Split).index(self.split), self.number])

    def takes_json_entry(self, options: SyntheticOptions) -> dict[str, Any]:
        """This take's entry in takes.json."""
        streams = {}
        for camera in self.cameras:
            # The keys of `aria01_214-1` are aria01 and rgb, those of `cam01` are cam01 and 0.
            name, stream = camera, "0"
            if view_of(camera) is View.EGO:
                name, stream = camera.split("_")[0], "rgb"
            path = f"frame_aligned_videos/{camera}.mp4"
            streams[name] = {stream: {"cam_id": camera, "relative_path": path}}
        return {
            "root_dir": f"takes/{self.take_name}",
            "take_uid": self.take_uid,
            "take_name": self.take_name,
            "capture_uid": str(uuid.uuid5(_CAPTURES, self.take_name.rpartition("_")[0])),
            "participant_uid": 100 + (self.number + 1) // 2,
            "university_id": self.university_id,
            "university_name": _UNIVERSITIES[self.university_id],
            "parent_task_name": self.scenario,
            "duration_sec": round(options.frames / FPS, 3),
            "is_dropped": False,
            "frame_aligned_videos": streams,
        }


def plan_takes(options: SyntheticOptions) -> list[TakePlan]:
    """All takes of a release, train first."""
    return [
        _plan(options, split, number) for split in Split for number in range(options.takes(split))
    ]


def redacted_take(options: SyntheticOptions, split: Split, number: int) -> TakePlan:
    """A take that is in the splits but not in takes.json."""
    return _plan(options, split, options.takes(split) + number)


def render_take(plan: TakePlan, release: Release, options: SyntheticOptions) -> dict[str, Any]:
    """Write the take's videos; returns its entry in relations_<split>.json."""
    scene, places, annotation_rng = draw_take(plan, options)
    ids: dict[str, dict[int, Bytes]] = {}
    for camera, place in zip(plan.cameras, places, strict=True):
        hw = options.frame_hw(view_of(camera), portrait=plan.portrait)
        with open_camera_videos(release, plan.take_name, camera, hw=hw, gop=options.gop) as write:
            ids[camera] = _render_camera(scene, place, hw, write, options)
    return {
        "scenario": plan.scenario,
        "take_name": plan.take_name,
        **annotate([item.name for item in scene.objects], ids, annotation_rng),
    }


def draw_take(
    plan: TakePlan, options: SyntheticOptions
) -> tuple[Scene, list[HeadMotion | ExoPlace], np.random.Generator]:
    """A take's scene, the places of its cameras, and the generator for its annotation.

    The order of random draws in calm takes must not change: published figures and golden files
    depend on it.
    """
    rng, seconds = plan.rng(options), options.frames / FPS
    exo = [ExoPlace.draw(rng, number) for number in range(plan.exo_count)]
    head = HeadMotion.draw(rng)
    if options.motion is Motion.LIVELY:
        head = head.lively(rng, seconds)
    away = -np.array([np.cos(exo[0].azimuth), np.sin(exo[0].azimuth)])
    count = max(options.objects_per_take + int(rng.integers(-2, 3)), FEWEST_OBJECTS)
    scene = Scene.draw(rng, count=count, seconds=seconds, away=away, motion=options.motion)
    return scene, [head, *exo], np.random.default_rng(rng.integers(2**63))


def annotate(
    names: Sequence[str], ids: Mapping[str, Mapping[int, Bytes]], rng: np.random.Generator
) -> dict[str, Any]:
    """`object_masks` and `object_names` of a take.

    ids: camera → frame_idx → object ids, for every annotated frame. An object is annotated in the
    ego camera and in the exo camera that shows it largest. Every tenth object is annotated in all
    cameras, every thirteenth only in the ego camera.
    """
    areas = {}  # camera → (256,), the largest area of each object id
    for camera, frames in ids.items():
        counts = [np.bincount(frame_ids.ravel(), minlength=256) for frame_ids in frames.values()]
        areas[camera] = np.max(counts, axis=0)
    ego = [camera for camera in ids if view_of(camera) is View.EGO]
    exo = [camera for camera in ids if view_of(camera) is View.EXO]
    object_masks: dict[str, Any] = {}
    for number, name in enumerate(names):
        exo_cameras = sorted(exo, key=lambda camera: -areas[camera][number + 1])[:1]  # noqa: B023
        if number % 13 == 12:
            exo_cameras = []
        elif number % 10 == 9:
            exo_cameras = exo
        object_masks[name] = {
            camera: _track(ids[camera], number + 1, rng) for camera in [*ego, *exo_cameras]
        }
    return {"object_masks": object_masks, "object_names": list(names)}


def _render_camera(
    scene: Scene,
    place: HeadMotion | ExoPlace,
    hw: tuple[int, int],
    write: Callable[[Bytes], None],
    options: SyntheticOptions,
) -> dict[int, Bytes]:
    """Render and write all frames of a camera; returns object ids of the annotated ones."""
    painter = Painter(*hw, scene.textures)
    annotated_ids: dict[int, Bytes] = {}
    previous = None
    code = code_size(*hw)
    static_camera = None if isinstance(place, HeadMotion) else place.camera(*hw)
    table = scene.textures.table
    for frame_idx in range(options.frames):
        if frame_idx in options.rendered:
            solids = scene.solids(frame_idx)
            if previous is None or not np.array_equal(solids, previous):
                table = shaded_table(scene.textures.table, solids)
            if isinstance(place, HeadMotion):
                painter.paint(place.camera(frame_idx, *hw), solids, table)
            elif static_camera is not None:
                rect = changed_rect(static_camera, previous, solids, hw)
                painter.paint(static_camera, solids, table, rect)
            previous = solids
        draw_frame_index(painter.rgb, frame_idx)
        painter.ids[: code[0], : code[1]] = 0
        write(painter.rgb)
        if frame_idx in options.annotated:
            annotated_ids[frame_idx] = painter.ids.copy()
    return annotated_ids


def changed_rect(
    camera: Camera, before: NDArray[np.void] | None, after: NDArray[np.void], hw: tuple[int, int]
) -> Rect | None:
    """Where something moved in the image of a static camera; None (everywhere) without `before`."""
    if before is None:
        return None
    common = min(len(before), len(after))
    differs = before[:common] != after[:common]
    solids = [
        *before[:common][differs],
        *after[:common][differs],
        *before[common:],
        *after[common:],
    ]
    if not solids:
        return 0, 0, 0, 0
    boxes = np.stack([bounds(camera, solid, *hw, margin=SHADOW_REACH) for solid in solids])
    (y0, _, x0, _), (_, y1, _, x1) = boxes.min(axis=0).tolist(), boxes.max(axis=0).tolist()
    return y0, y1, x0, x1


def _track(frames: Mapping[int, Bytes], object_id: int, rng: np.random.Generator) -> dict[str, Any]:
    """The annotation of an object in a camera, with unsorted frame keys as in the real files."""
    frame_idxs = sorted(frames)
    if len(frame_idxs) > 2 and rng.random() < _EARLY_END_SHARE:
        frame_idxs = frame_idxs[: -int(rng.integers(1, 3))]
    annotation = {}
    for frame_idx in rng.permutation(frame_idxs).tolist():
        mask = frames[frame_idx] == object_id
        if mask.sum() >= max(_MIN_VISIBLE_PIXELS, _MIN_VISIBLE_SHARE * mask.size):
            annotation[str(frame_idx)] = encode_mask(mask)
    return {
        "annotation": annotation,
        "annotated_frames": frame_idxs,
        "annotation_fps": 1,
        "annotation_metadata": {"source": "synthetic"},
    }


def encode_mask(mask: Bool) -> dict[str, Any]:
    """A mask (H, W) in the format of the release."""
    rle = MaskRle.encode(mask)
    text = LZString().compressToEncodedURIComponent(rle.counts)
    return {"width": rle.width, "height": rle.height, "encodedMask": text}


def _plan(options: SyntheticOptions, split: Split, number: int) -> TakePlan:
    rng = np.random.default_rng([options.seed, 1000 + list(Split).index(split), number])
    scenario = SCENARIOS[number % len(SCENARIOS)]
    university = str(rng.choice(list(_UNIVERSITIES)))
    earlier_takes = sum(options.takes(other) for other in list(Split)[: list(Split).index(split)])
    name = f"{university}_{scenario.lower().replace(' ', '')}_{earlier_takes + number + 1:02}_1"
    return TakePlan(
        split=split,
        number=number,
        take_uid=str(uuid.UUID(bytes=rng.bytes(16), version=4)),
        take_name=name,
        scenario=scenario,
        university_id=university,
        exo_count=options.exo_cameras if number % 3 == 0 else 1,
        portrait=number < options.portrait_takes,
    )
