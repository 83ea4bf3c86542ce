"""One take: who and where it is, its videos, and its annotation from the renderer's object ids.

An object is visible in a frame when enough of its pixels are; in every other annotated frame it
was checked and is absent. Some tracks end early: their last frames were never annotated.
"""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from lzstring import LZString
from numpy.typing import NDArray

from egoexo_tools.arrays import Bool, Bytes, Int64
from egoexo_tools.layout import Release
from egoexo_tools.masks.rle import MaskRle
from egoexo_tools.synthetic.cameras import Camera, ExoPlace, HeadMotion
from egoexo_tools.synthetic.frame_code import code_size, draw_frame_index
from egoexo_tools.synthetic.objects import FEWEST_OBJECTS
from egoexo_tools.synthetic.options import Motion, SyntheticOptions
from egoexo_tools.synthetic.render import Painter, Rect, bounds
from egoexo_tools.synthetic.scene import SHADOW_REACH, Scene, shaded_table
from egoexo_tools.synthetic.videos import CameraVideo
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
_ABSENT_BELOW = 2e-4
"""Less than this share of the frame's pixels counts as not visible..."""
_ABSENT_BELOW_PIXELS = 12
"""...and never fewer than this many pixels."""
_ENDS_EARLY = 0.12


@dataclass(frozen=True)
class TakePlan:
    """A take before it is rendered; all of it follows from the options and its place in them."""

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
        """Ego first. A third of the takes name their exo cameras gp01, gp02."""
        prefix = "gp" if self.number % 3 == 1 else "cam"
        exo = [f"{prefix}{number + 1:02}" for number in range(self.exo_count)]
        return (_EGO_CAMERAS[self.number % len(_EGO_CAMERAS)], *exo)

    def rng(self, options: SyntheticOptions) -> np.random.Generator:
        """The same at every call; no two takes of a release share it."""
        return np.random.default_rng([options.seed, list(Split).index(self.split), self.number])

    def takes_json_entry(self, options: SyntheticOptions) -> dict[str, Any]:
        """This take's entry in takes.json."""
        streams = {
            _stream(camera)[0]: {
                _stream(camera)[1]: {
                    "cam_id": camera,
                    "relative_path": f"frame_aligned_videos/{camera}.mp4",
                }
            }
            for camera in self.cameras
        }
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
    """Every take of a release, train first."""
    return [
        _plan(options, split, number) for split in Split for number in range(options.takes(split))
    ]


def redacted_take(options: SyntheticOptions, split: Split, number: int) -> TakePlan:
    """A take that the splits list and takes.json does not hold."""
    return _plan(options, split, options.takes(split) + number)


def render_take(plan: TakePlan, release: Release, options: SyntheticOptions) -> dict[str, Any]:
    """Write the take's videos; returns its entry of relations_<split>.json."""
    scene, places, annotation_rng = draw_take(plan, options)
    ids: dict[str, dict[int, Bytes]] = {}
    for camera, place in zip(plan.cameras, places, strict=True):
        hw = options.frame_hw(view_of(camera), portrait=plan.portrait)
        with CameraVideo(release, plan.take_name, camera, hw=hw, gop=options.gop) as video:
            ids[camera] = _film(scene, place, hw, video, options)
    return {
        "scenario": plan.scenario,
        "take_name": plan.take_name,
        **annotate([item.name for item in scene.objects], ids, annotation_rng),
    }


def draw_take(
    plan: TakePlan, options: SyntheticOptions
) -> tuple[Scene, list[HeadMotion | ExoPlace], np.random.Generator]:
    """A take's scene, where its cameras are (in their order), and what its annotation draws from.

    Calm takes are drawn as they have always been: figures and goldens rest on them.
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

    ids: camera → frame_idx → object ids, for every annotated frame. An object is annotated in
    the ego camera and in the exo camera that shows it largest; every tenth in all cameras, and
    every thirteenth in the ego camera only.
    """
    areas = {camera: _areas(frames) for camera, frames in ids.items()}
    ego = [camera for camera in ids if view_of(camera) is View.EGO]
    exo = [camera for camera in ids if view_of(camera) is View.EXO]
    object_masks: dict[str, Any] = {}
    for number, name in enumerate(names):
        chosen = sorted(exo, key=lambda camera: -areas[camera][number + 1])[:1]  # noqa: B023
        if number % 13 == 12:
            chosen = []
        elif number % 10 == 9:
            chosen = exo
        object_masks[name] = {
            camera: _track(ids[camera], number + 1, rng) for camera in [*ego, *chosen]
        }
    return {"object_masks": object_masks, "object_names": list(names)}


def _film(
    scene: Scene,
    place: HeadMotion | ExoPlace,
    hw: tuple[int, int],
    video: CameraVideo,
    options: SyntheticOptions,
) -> dict[int, Bytes]:
    """Render and write all frames of a camera; the object ids of the annotated ones."""
    painter, kept, before = Painter(*hw, scene.textures), {}, None
    code = code_size(*hw)
    still = None if isinstance(place, HeadMotion) else place.camera(*hw)
    table = scene.textures.table
    for frame_idx in range(options.frames):
        if frame_idx in options.drawn:
            solids = scene.solids(frame_idx)
            if before is None or not np.array_equal(solids, before):
                table = shaded_table(scene.textures.table, solids)
            if isinstance(place, HeadMotion):
                painter.paint(place.camera(frame_idx, *hw), solids, table)
            elif still is not None:
                painter.paint(still, solids, table, _changed(still, before, solids, hw))
            before = solids
        draw_frame_index(painter.rgb, frame_idx)
        painter.ids[: code[0], : code[1]] = 0
        video.write(painter.rgb)
        if frame_idx in options.annotated:
            kept[frame_idx] = painter.ids.copy()
    return kept


def _changed(
    camera: Camera, before: NDArray[np.void] | None, after: NDArray[np.void], hw: tuple[int, int]
) -> Rect | None:
    """Where something moved in a still camera's picture; None at first: everywhere."""
    if before is None:
        return None
    common = min(len(before), len(after))
    moved = before[:common] != after[:common]
    solids = [*before[:common][moved], *after[:common][moved], *before[common:], *after[common:]]
    if not solids:
        return 0, 0, 0, 0
    boxes = np.stack([bounds(camera, solid, *hw, margin=SHADOW_REACH) for solid in solids])
    (y0, _, x0, _), (_, y1, _, x1) = boxes.min(axis=0).tolist(), boxes.max(axis=0).tolist()
    return y0, y1, x0, x1


def _track(frames: Mapping[int, Bytes], object_id: int, rng: np.random.Generator) -> dict[str, Any]:
    """One object in one camera, with unsorted frame keys as in the real files."""
    checked = sorted(frames)
    if len(checked) > 2 and rng.random() < _ENDS_EARLY:
        checked = checked[: -int(rng.integers(1, 3))]
    annotation = {}
    for frame_idx in rng.permutation(checked).tolist():
        mask = frames[frame_idx] == object_id
        if mask.sum() >= max(_ABSENT_BELOW_PIXELS, _ABSENT_BELOW * mask.size):
            annotation[str(frame_idx)] = encode_mask(mask)
    return {
        "annotation": annotation,
        "annotated_frames": checked,
        "annotation_fps": 1,
        "annotation_metadata": {"source": "synthetic"},
    }


def _areas(frames: Mapping[int, Bytes]) -> Int64:
    """(256,): the most pixels of each object id in a frame."""
    counts = [np.bincount(ids.ravel(), minlength=256) for ids in frames.values()]
    return np.asarray(np.max(counts, axis=0), dtype=np.int64)


def encode_mask(mask: Bool) -> dict[str, Any]:
    """A mask (H, W) as the release writes it."""
    rle = MaskRle.encode(mask)
    text = LZString().compressToEncodedURIComponent(rle.counts)
    return {"width": rle.width, "height": rle.height, "encodedMask": text}


def _plan(options: SyntheticOptions, split: Split, number: int) -> TakePlan:
    rng = np.random.default_rng([options.seed, 1000 + list(Split).index(split), number])
    scenario = SCENARIOS[number % len(SCENARIOS)]
    university = str(rng.choice(list(_UNIVERSITIES)))
    place = sum(options.takes(other) for other in list(Split)[: list(Split).index(split)])
    return TakePlan(
        split=split,
        number=number,
        take_uid=str(uuid.UUID(bytes=rng.bytes(16), version=4)),
        take_name=f"{university}_{scenario.lower().replace(' ', '')}_{place + number + 1:02}_1",
        scenario=scenario,
        university_id=university,
        exo_count=options.exo_cameras if number % 3 == 0 else 1,
        portrait=number < options.portrait_takes,
    )


def _stream(camera: str) -> tuple[str, str]:
    """takes.json keys: `aria01_214-1` is ["aria01"]["rgb"], `cam01` is ["cam01"]["0"]."""
    if view_of(camera) is View.EGO:
        return camera.split("_")[0], "rgb"
    return camera, "0"
