"""Looking at a take: its cameras at the same instants, with masks and proposals drawn in.

Reads the takes, masks, frames and proposals manifests and the pictures that `frames` wrote.
Writes a plain MP4 with the views side by side, or a Rerun recording (.rrd) in which every layer
can be switched. An object has the same colour in every camera.
"""

import colorsys
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import cv2
import numpy as np
import pyarrow.compute as pc
from PIL import Image, ImageDraw, ImageFont

from egoexo_tools.arrays import Rgb
from egoexo_tools.errors import DataError, SettingsError
from egoexo_tools.layout import DatasetRoot, atomic_path, path_component
from egoexo_tools.manifests import read_manifest
from egoexo_tools.masks.columns import RLE_COLUMNS, mask_from_row
from egoexo_tools.masks.rle import MaskRle
from egoexo_tools.release.scenarios import not_found_text
from egoexo_tools.video.pictures import read_image
from egoexo_tools.video.writer import open_video
from egoexo_tools.viewing.painting import OPACITY, Colour, outlines, overlay
from egoexo_tools.vocab import FPS

_Text: TypeAlias = tuple[str, tuple[float, float], Colour]
"""What, where its lower left corner is, and its colour."""

_PROPOSAL: Colour = (235, 235, 235)
_GAP = 4
_TEXT_SIZE = 14
_GOLDEN_RATIO = 0.618033988749895
_X264 = {"preset": "veryfast", "crf": "20", "g": "10"}
"""With many key frames: such a video is looked at by jumping about."""


@dataclass(frozen=True)
class Moment:
    """One camera at one instant."""

    picture: Path
    masks: list[tuple[str, MaskRle]]
    """(object_name, mask) of what is visible."""
    proposals: list[MaskRle]


@dataclass(frozen=True)
class TakeView:
    """A take as it is looked at."""

    take_uid: str
    take_name: str
    cameras: tuple[str, ...]
    """The ego camera first."""
    frame_idxs: tuple[int, ...]
    """Every frame that one of the cameras has a picture of."""
    moments: dict[tuple[str, int], Moment]
    """By camera and frame_idx."""
    colours: dict[str, Colour]
    """By object_name, RGB."""

    @property
    def file_name(self) -> str:
        """The take's name as one path component."""
        return path_component(self.take_name)


def open_take(
    root: DatasetRoot, take: str, *, cameras: Sequence[str] = (), proposals: bool = True
) -> TakeView:
    """Gather a take, by take_uid or take_name; `cameras` names some of its cameras.

    Raises SettingsError for a take or camera that the root does not have, DataError where it has
    no pictures of them.
    """
    found = _find_take(root.require(), take)
    take_uid = found["take_uid"]
    chosen = _choose_cameras(found, cameras)
    frames = _of_take(root, "frames", [f"{take_uid}.{camera}" for camera in chosen])
    if not frames:
        raise DataError(f"take {take} has no pictures; run `egoexo-tools frames` first")
    masks = _of_take(root, "masks", [take_uid])
    names = list(dict.fromkeys(row["object_name"] for row in masks))
    units = [f"{take_uid}.{camera}" for camera in chosen] if proposals else []
    proposed = _of_take(root, "proposals", units)
    moments = {
        (row["camera"], row["frame_idx"]): Moment(root.path / row["path"], [], []) for row in frames
    }
    for row in masks:
        moment = moments.get((row["camera"], row["frame_idx"]))
        if moment is not None and row["visible"]:
            moment.masks.append((row["object_name"], mask_from_row(row)))
    for row in proposed:
        moment = moments.get((row["camera"], row["frame_idx"]))
        if moment is not None:
            moment.proposals.append(mask_from_row(row))
    return TakeView(
        take_uid=take_uid,
        take_name=found["take_name"] or take_uid,
        cameras=tuple(chosen),
        frame_idxs=tuple(sorted({frame_idx for _, frame_idx in moments})),
        moments=moments,
        colours={name: _colour(number) for number, name in enumerate(names)},
    )


def write_view(view: TakeView, path: Path, *, height: int = 540, fps: int = 2) -> None:
    """Write an .mp4 or .rrd, as the name ends; `write_take_page` writes an .html.

    Raises SettingsError for another ending.
    """
    if path.suffix == ".mp4":
        write_mp4(view, path, height=height, fps=fps)
    elif path.suffix == ".rrd":
        write_rrd(view, path)
    else:
        raise SettingsError(f"{path.name} must end in .mp4, .rrd or .html")


def write_mp4(view: TakeView, path: Path, *, height: int = 540, fps: int = 2) -> None:
    """The cameras side by side, each `height` pixels high; one picture an annotated frame."""
    # H.264 as every player shows it keeps colours at half the size: both sides are even.
    if height % 2 or height < 64:
        raise SettingsError(f"height {height} must be even and at least 64")
    widths = [_width(view, camera, height) for camera in view.cameras]
    total = sum(widths) + _GAP * (len(widths) - 1)
    with open_video(path, hw=(height, total), fps=fps, options=_X264) as video:
        for frame_idx in view.frame_idxs:
            panels = [
                _panel(view, camera, frame_idx, (height, width))
                for camera, width in zip(view.cameras, widths, strict=True)
            ]
            video.write(_join(panels, height))


def write_rrd(view: TakeView, path: Path) -> None:
    """A Rerun recording: per camera the pictures, masks, boxes with names, and proposals.

    Two timelines: `frame` is the frame_idx, `time` the seconds in the take.
    """
    try:
        import rerun as rr
        import rerun.blueprint as rrb
    except ImportError:
        raise DataError(
            "a .rrd needs rerun-sdk; install it with `pip install 'egoexo-tools[report]'`, or "
            "write an .mp4"
        ) from None
    views = [
        rrb.Spatial2DView(origin=rr.new_entity_path([name]), name=name) for name in view.cameras
    ]
    with atomic_path(path) as partial:
        recording = rr.RecordingStream("egoexo-tools view", recording_id=view.take_uid)
        recording.save(partial, default_blueprint=rrb.Blueprint(rrb.Horizontal(*views)))
        recording.send_recording_name(view.take_name)
        for frame_idx in view.frame_idxs:
            recording.set_time("frame", sequence=frame_idx)
            recording.set_time("time", duration=frame_idx / FPS)
            for camera in view.cameras:
                for name, content in _layers(view, camera, frame_idx):
                    recording.log([camera, name], content)
        # All of it must be in the file before it gets its name.
        recording.flush()
        recording.disconnect()


def render(view: TakeView, camera: str, frame_idx: int) -> Rgb | None:
    """A camera's picture with masks and proposals drawn in, (H, W, 3) RGB; None without one."""
    moment = view.moments.get((camera, frame_idx))
    if moment is None:
        return None
    rgb = read_image(moment.picture)
    for proposal in moment.proposals:
        outer = outlines(proposal.decode_at(*rgb.shape[:2]))
        cv2.drawContours(rgb, outer, -1, _PROPOSAL, 1)
    for name, rle in moment.masks:
        rgb = overlay(rgb, rle, view.colours[name])
    return rgb


def _layers(view: TakeView, camera: str, frame_idx: int) -> Iterator[tuple[str, Any]]:
    """(name, content) of each layer of a camera at an instant; an empty one clears the last."""
    import rerun as rr

    moment = view.moments.get((camera, frame_idx))
    if moment is None:
        yield "", rr.Clear(recursive=True)
        return
    height, width = read_image(moment.picture).shape[:2]
    yield "picture", rr.EncodedImage(contents=moment.picture.read_bytes(), media_type="image/jpeg")
    tints = np.zeros((height, width, 4), np.uint8)
    boxes = []
    for name, rle in moment.masks:
        # imencode takes blue first.
        tints[rle.decode_at(height, width)] = (*view.colours[name][::-1], round(255 * OPACITY))
        scale = np.array([width / rle.width, height / rle.height] * 2)
        boxes.append(np.array(rle.box_xywh()) * scale)
    png = cv2.imencode(".png", tints)[1].tobytes()
    yield "masks", rr.EncodedImage(contents=png, media_type="image/png", draw_order=1.0)
    corners = np.array(boxes, np.float32).reshape(-1, 4)
    names = [name for name, _ in moment.masks]
    yield (
        "objects",
        rr.Boxes2D(
            mins=corners[:, :2],
            sizes=corners[:, 2:],
            labels=names,
            colors=[view.colours[name] for name in names],
        ),
    )
    strips = [
        np.concatenate([contour[:, 0], contour[:1, 0]])
        for proposal in moment.proposals
        for contour in outlines(proposal.decode_at(height, width))
    ]
    yield "proposals", rr.LineStrips2D(strips, colors=[_PROPOSAL] * len(strips))


def _panel(view: TakeView, camera: str, frame_idx: int, hw: tuple[int, int]) -> Rgb:
    """A camera's picture at the panel's size, with names; dark where there is none."""
    rgb = render(view, camera, frame_idx)
    title = f"{camera}, frame {frame_idx}, {frame_idx / FPS:.1f} s"
    if rgb is None:
        dark = np.full((*hw, 3), 24, np.uint8)
        return _write(dark, [(f"{title}: no picture", (6, hw[0] - 6), (255, 255, 255))])
    panel = np.asarray(cv2.resize(rgb, hw[::-1], interpolation=cv2.INTER_AREA), np.uint8)
    texts: list[_Text] = [(title, (6, hw[0] - 6), (255, 255, 255))]
    for name, rle in view.moments[camera, frame_idx].masks:
        x, y, w, _ = rle.box_xywh()
        place = ((x + w / 2) / rle.width * hw[1] - 3 * len(name), y / rle.height * hw[0] - 4)
        texts.append((name, place, view.colours[name]))
    return _write(panel, texts)


def _write(panel: Rgb, texts: Sequence[_Text]) -> Rgb:
    """Texts with a dark edge, kept inside the panel; Pillow's own font has no accents."""
    picture = Image.fromarray(panel)
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(_TEXT_SIZE)
    for text, (left, bottom), colour in texts:
        text = _without_accents(text)
        x = min(max(left, 2), max(panel.shape[1] - draw.textlength(text, font=font) - 2, 0))
        y = min(max(bottom, _TEXT_SIZE + 2), panel.shape[0] - 4)
        draw.text(
            (x, y), text, fill=colour, font=font, anchor="ls", stroke_width=2, stroke_fill="black"
        )
    return np.asarray(picture)


def _without_accents(text: str) -> str:
    apart = unicodedata.normalize("NFKD", text)
    return "".join(char for char in apart if not unicodedata.combining(char))


def _join(panels: Sequence[Rgb], height: int) -> Rgb:
    gap = np.zeros((height, _GAP, 3), np.uint8)
    parts = [part for panel in panels for part in (gap, panel)][1:]
    return np.concatenate(parts, axis=1)


def _width(view: TakeView, camera: str, height: int) -> int:
    """Even, in the shape of the camera's pictures; a square where there are none."""
    pictures = [moment.picture for (name, _), moment in view.moments.items() if name == camera]
    if not pictures:
        return height
    real = read_image(pictures[0]).shape
    return max(2 * round(int(real[1]) * height / int(real[0]) / 2), 2)


def _find_take(root: DatasetRoot, take: str) -> dict[str, Any]:
    columns = ["take_uid", "take_name", "ego_camera", "exo_cameras"]
    rows: list[dict[str, Any]] = read_manifest(root, "takes", columns=columns).to_pylist()
    for row in rows:
        if take in (row["take_uid"], row["take_name"]):
            return row
    names = [name for row in rows for name in (row["take_name"], row["take_uid"]) if name]
    raise SettingsError(f"take {not_found_text(take, names, where='this root')}")


def _choose_cameras(take: dict[str, Any], asked: Sequence[str]) -> list[str]:
    known = [camera for camera in (take["ego_camera"], *(take["exo_cameras"] or ())) if camera]
    for camera in asked:
        if camera not in known:
            raise SettingsError(f"camera {not_found_text(camera, known, where='this take')}")
    return [camera for camera in known if camera in asked] if asked else known


def _of_take(root: DatasetRoot, table: str, units: Sequence[str]) -> list[dict[str, Any]]:
    """The rows of a take's parts that are there, in the order of the parts."""
    present = [unit for unit in units if root.part(table, unit).is_file()]
    if not present:
        return []
    names = ["take_uid", "camera", "frame_idx"]
    names += {
        "frames": ["path"],
        "masks": ["object_name", "visible", *RLE_COLUMNS],
        "proposals": [*RLE_COLUMNS],
    }[table]
    found = read_manifest(root, table, columns=names, units=present)
    rows: list[dict[str, Any]] = found.filter(pc.is_valid(found["frame_idx"])).to_pylist()
    return rows


def _colour(number: int) -> Colour:
    """Hues a golden ratio apart: neighbours in the list are far apart in colour."""
    red, green, blue = colorsys.hsv_to_rgb(number * _GOLDEN_RATIO % 1, 0.75, 1.0)
    return round(255 * red), round(255 * green), round(255 * blue)
