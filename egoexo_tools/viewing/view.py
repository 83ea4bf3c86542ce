"""A take's cameras at the same instants, with masks and proposals drawn in.

Reads the takes, masks, frames and proposals manifests and the pictures that `frames` wrote. Writes
an MP4 with the views side by side, or a Rerun recording (.rrd) whose layers can be switched on and
off. An object has the same colour in every camera.
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
"""Words, the position of their lower left corner, and colour."""

_PROPOSAL: Colour = (235, 235, 235)
_GAP = 4
_TEXT_SIZE = 14
_GOLDEN_RATIO = 0.618033988749895
# Many key frames (g), because viewers jump around in such a video.
_X264 = {"preset": "veryfast", "crf": "20", "g": "10"}


@dataclass(frozen=True)
class Moment:
    """One camera at one instant."""

    picture: Path
    masks: list[tuple[str, MaskRle]]
    """(object_name, mask) of the visible objects."""
    proposals: list[MaskRle]


@dataclass(frozen=True)
class TakeView:
    """A take with everything that is shown of it."""

    take_uid: str
    take_name: str
    cameras: tuple[str, ...]
    """The ego camera first."""
    frame_idxs: tuple[int, ...]
    """Every frame of which one of the cameras has a picture."""
    moments: dict[tuple[str, int], Moment]
    """(camera, frame_idx) → what the camera shows."""
    colours: dict[str, Colour]
    """object_name → RGB."""

    @property
    def file_name(self) -> str:
        """The take's name as one path component."""
        return path_component(self.take_name)


def open_take(
    root: DatasetRoot, take: str, *, cameras: Sequence[str] = (), proposals: bool = True
) -> TakeView:
    """Read a take, by take_uid or take_name; `cameras` selects some of its cameras.

    Raises SettingsError for a take or camera that the root does not have, and DataError if it has
    no pictures of them.
    """
    columns = ["take_uid", "take_name", "ego_camera", "exo_cameras"]
    takes = read_manifest(root.require(), "takes", columns=columns).to_pylist()
    row = next((row for row in takes if take in (row["take_uid"], row["take_name"])), None)
    if row is None:
        names = [name for row in takes for name in (row["take_name"], row["take_uid"]) if name]
        raise SettingsError(f"take {not_found_text(take, names, where='this root')}")
    take_uid, take_name = row["take_uid"], row["take_name"] or row["take_uid"]
    take_cameras = [name for name in (row["ego_camera"], *(row["exo_cameras"] or ())) if name]
    for camera in cameras:
        if camera not in take_cameras:
            text = not_found_text(camera, take_cameras, where="this take")
            raise SettingsError(f"camera {text}")
    selected = [camera for camera in take_cameras if not cameras or camera in cameras]
    # Frames and proposals have one part per camera, masks one per take.
    units = [f"{take_uid}.{camera}" for camera in selected]
    frames = _read_rows(root, "frames", units, ["path"])
    if not frames:
        raise DataError(f"take {take} has no pictures; run `egoexo-tools frames` first")
    moments = {
        (row["camera"], row["frame_idx"]): Moment(root.path / row["path"], [], []) for row in frames
    }
    masks = _read_rows(root, "masks", [take_uid], ["object_name", "visible", *RLE_COLUMNS])
    for row in masks:
        moment = moments.get((row["camera"], row["frame_idx"]))
        if moment is not None and row["visible"]:
            moment.masks.append((row["object_name"], mask_from_row(row)))
    for row in _read_rows(root, "proposals", units if proposals else [], RLE_COLUMNS):
        moment = moments.get((row["camera"], row["frame_idx"]))
        if moment is not None:
            moment.proposals.append(mask_from_row(row))
    colours: dict[str, Colour] = {}
    for number, name in enumerate(dict.fromkeys(row["object_name"] for row in masks)):
        # Hues at a distance of the golden ratio: neighbours in the list get different colours.
        rgb = colorsys.hsv_to_rgb(number * _GOLDEN_RATIO % 1, 0.75, 1.0)
        colours[name] = (round(255 * rgb[0]), round(255 * rgb[1]), round(255 * rgb[2]))
    return TakeView(
        take_uid=take_uid,
        take_name=take_name,
        cameras=tuple(selected),
        frame_idxs=tuple(sorted({frame_idx for _, frame_idx in moments})),
        moments=moments,
        colours=colours,
    )


def write_view(view: TakeView, path: Path, *, height: int = 540, fps: int = 2) -> None:
    """Write an .mp4 or .rrd, depending on the suffix; `write_take_page` writes an .html.

    Raises SettingsError for another suffix.
    """
    if path.suffix == ".mp4":
        write_mp4(view, path, height=height, fps=fps)
    elif path.suffix == ".rrd":
        write_rrd(view, path)
    else:
        raise SettingsError(f"{path.name} must end in .mp4, .rrd or .html")


def write_mp4(view: TakeView, path: Path, *, height: int = 540, fps: int = 2) -> None:
    """The cameras side by side, each `height` pixels high; one picture per annotated frame."""
    # Common players need 4:2:0, in which colours have half the size, so both sides must be even.
    if height % 2 or height < 64:
        raise SettingsError(f"height {height} must be even and at least 64")
    widths = []
    for camera in view.cameras:
        # In the shape of the camera's pictures; a square without any.
        pictures = [moment.picture for (name, _), moment in view.moments.items() if name == camera]
        picture_hw = read_image(pictures[0]).shape[:2] if pictures else (1, 1)
        widths.append(max(2 * round(picture_hw[1] * height / picture_hw[0] / 2), 2))
    total = sum(widths) + _GAP * (len(widths) - 1)
    gap = np.zeros((height, _GAP, 3), np.uint8)
    with open_video(path, hw=(height, total), fps=fps, options=_X264) as video:
        for frame_idx in view.frame_idxs:
            parts: list[Rgb] = []
            for camera, width in zip(view.cameras, widths, strict=True):
                parts += [gap, _draw_panel(view, camera, frame_idx, (height, width))]
            video.write(np.concatenate(parts[1:], axis=1))


def write_rrd(view: TakeView, path: Path) -> None:
    """Write a Rerun recording with the pictures, masks, named boxes and proposals of each camera.

    Two timelines: `frame` is the frame_idx, `time` the seconds since the start of the take. Raises
    DataError if rerun-sdk is not installed.
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
        # Everything must be in the file before atomic_path renames it.
        recording.flush()
        recording.disconnect()


def render(view: TakeView, camera: str, frame_idx: int) -> Rgb | None:
    """A camera's picture with masks and proposals, (H, W, 3) RGB; None without a picture."""
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
    """(name, content) of each layer of a camera at an instant."""
    import rerun as rr

    moment = view.moments.get((camera, frame_idx))
    if moment is None:
        # Otherwise the layers of the preceding instant stay visible.
        yield "", rr.Clear(recursive=True)
        return
    height, width = read_image(moment.picture).shape[:2]
    yield "picture", rr.EncodedImage(contents=moment.picture.read_bytes(), media_type="image/jpeg")
    tints = np.zeros((height, width, 4), np.uint8)
    boxes = []
    for name, rle in moment.masks:
        # imencode expects blue first.
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


def _draw_panel(view: TakeView, camera: str, frame_idx: int, hw: tuple[int, int]) -> Rgb:
    """A camera's picture at size `hw`, with names; a dark panel without a picture."""
    rgb = render(view, camera, frame_idx)
    title = f"{camera}, frame {frame_idx}, {frame_idx / FPS:.1f} s"
    if rgb is None:
        panel = np.full((*hw, 3), 24, np.uint8)
        title += ": no picture"
    else:
        panel = np.asarray(cv2.resize(rgb, hw[::-1], interpolation=cv2.INTER_AREA), np.uint8)
    texts: list[_Text] = [(title, (6, hw[0] - 6), (255, 255, 255))]
    for name, rle in view.moments[camera, frame_idx].masks if rgb is not None else ():
        left, top, width, _ = rle.box_xywh()
        middle = (left + width / 2) / rle.width * hw[1]
        place = (middle - 3 * len(name), top / rle.height * hw[0] - 4)
        texts.append((name, place, view.colours[name]))
    picture = Image.fromarray(panel)
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(_TEXT_SIZE)
    for text, (text_left, bottom), colour in texts:
        # Pillow's built-in font has no accented letters.
        decomposed = unicodedata.normalize("NFKD", text)
        text = "".join(char for char in decomposed if not unicodedata.combining(char))
        # Inside the panel, also for objects at its edge.
        x = min(max(text_left, 2), max(hw[1] - draw.textlength(text, font=font) - 2, 0))
        y = min(max(bottom, _TEXT_SIZE + 2), hw[0] - 4)
        draw.text(
            (x, y), text, fill=colour, font=font, anchor="ls", stroke_width=2, stroke_fill="black"
        )
    return np.asarray(picture)


def _read_rows(
    root: DatasetRoot, table: str, units: Sequence[str], columns: Sequence[str]
) -> list[dict[str, Any]]:
    """The rows of the parts of a take that exist, in the order of the parts."""
    present = [unit for unit in units if root.part(table, unit).is_file()]
    if not present:
        return []
    names = ["take_uid", "camera", "frame_idx", *columns]
    rows = read_manifest(root, table, columns=names, units=present)
    valid: list[dict[str, Any]] = rows.filter(pc.is_valid(rows["frame_idx"])).to_pylist()
    return valid
