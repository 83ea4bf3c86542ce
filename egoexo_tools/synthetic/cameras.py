"""Cameras: their positions, the colour rendition of each view, and the motion of the head.

In camera coordinates z points forward, x right and y down. Each kind of camera has one colour
rendition, the same in every take. A model can learn it from some objects and apply it to others.
"""

from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from egoexo_tools.arrays import Bytes, Float32, Float64
from egoexo_tools.vocab import FPS


@dataclass(frozen=True)
class Rendition:
    """Scene colour → image: saturation and hue, white balance, exposure, vignetting, gamma.

    Smooth and, except where values are clipped, invertible.
    """

    saturation: float
    hue_degrees: float
    balance: tuple[float, float, float]
    """Gain of red, green and blue, including exposure."""
    gamma: float
    """Exponent applied to the light, so values above 1 darken the image."""
    vignetting: float
    """Share of the light that is lost in the corners of the frame, 0 to 1."""

    @cached_property
    def matrix(self) -> Float32:
        """(3, 3): saturation, hue and white balance as a linear map of RGB."""
        angle = np.deg2rad(self.hue_degrees)
        # Saturation mixes with grey; hue rotates about the grey axis (Rodrigues' formula).
        grey = np.full((3, 3), 1 / 3)
        cross = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / np.sqrt(3)
        hue = grey + np.cos(angle) * (np.eye(3) - grey) + np.sin(angle) * cross
        saturation = self.saturation * np.eye(3) + (1 - self.saturation) * grey
        return np.asarray(np.diag(self.balance) @ hue @ saturation, dtype=np.float32)

    @cached_property
    def curve(self) -> Bytes:
        """(256,): light → pixel value."""
        return np.round(255 * (np.arange(256) / 255) ** self.gamma).astype(np.uint8)


EGO_RENDITION = Rendition(
    saturation=0.9, hue_degrees=-4, balance=(1.0, 0.91, 0.79), gamma=1.1, vignetting=0.4
)
EXO_RENDITION = Rendition(
    saturation=0.95, hue_degrees=4, balance=(0.87, 0.95, 1.0), gamma=0.9, vignetting=0.15
)


@dataclass(frozen=True)
class Camera:
    """A pinhole camera at one instant; the principal point is the centre of the frame."""

    origin: Float32
    """(3,) in metres."""
    rotation: Float32
    """(3, 3), world to camera."""
    focal: float
    """In pixels."""
    rendition: Rendition


@dataclass(frozen=True)
class ExoPlace:
    """A static camera on a stand, aimed at the table."""

    azimuth: float
    """Radians from the x axis; the wearer is at -pi / 2."""
    elevation: float
    """Radians above the table."""
    distance: float
    """From the centre of the table, in metres."""
    focal_widths: float
    """Focal length, in long sides of the frame."""

    def camera(self, height: int, width: int) -> Camera:
        horizontal = self.distance * np.cos(self.elevation)
        origin = np.array(
            [
                horizontal * np.cos(self.azimuth),
                horizontal * np.sin(self.azimuth),
                self.distance * np.sin(self.elevation),
            ]
        )
        focal = self.focal_widths * max(height, width)
        return _look_at(origin, np.array([0.0, 0.0, 0.03]), focal, EXO_RENDITION)

    @classmethod
    def draw(cls, rng: np.random.Generator, number: int) -> "ExoPlace":
        """Camera 0 is opposite the wearer, further ones are to its sides."""
        side = (0.0, 1.15, -1.15, 0.6)[number % 4]
        return cls(
            azimuth=np.pi / 2 + side + rng.uniform(-0.45, 0.45),
            elevation=rng.uniform(0.66, 0.86),
            distance=rng.uniform(1.2, 1.34),
            focal_widths=0.94,
        )


@dataclass(frozen=True)
class HeadMotion:
    """The wearer's head: it moves slowly, and in lively takes it also turns quickly."""

    place: tuple[float, float, float]
    """Mean position, in metres."""
    gaze: Float64
    """(2, 3): amplitude in metres, period in seconds and phase of the gaze point's x and y."""
    sway: Float64
    """(3, 3): the same for the head's x, y and z."""
    glances: Float64 = field(default_factory=lambda: np.zeros((0, 4)))
    """(n, 4): start and duration of a quick turn, in seconds, and the x, y of its target."""

    def camera(self, frame_idx: int, height: int, width: int) -> Camera:
        seconds = frame_idx / FPS
        origin = np.array(self.place) + _swing(self.sway, seconds)
        gaze_point = _swing(self.gaze, seconds) + [0.0, -0.03] + self._glance(seconds)
        target = np.append(gaze_point, 0.02)
        return _look_at(origin, target, 0.78 * min(height, width), EGO_RENDITION)

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "HeadMotion":
        gaze = np.array(
            [
                [rng.uniform(0.2, 0.36), rng.uniform(4.5, 8), rng.uniform(0, 2 * np.pi)],
                [rng.uniform(0.06, 0.14), rng.uniform(3.5, 7), rng.uniform(0, 2 * np.pi)],
            ]
        )
        sway = np.stack(
            [[rng.uniform(0.02, 0.07), rng.uniform(4, 9), rng.uniform(0, 2 * np.pi)]] * 3
        )
        sway[:, 2] += [0, 1.3, 2.1]
        place = (rng.uniform(-0.12, 0.12), rng.uniform(-0.72, -0.6), rng.uniform(0.56, 0.66))
        return cls(place=place, gaze=gaze, sway=sway)

    def lively(self, rng: np.random.Generator, seconds: float) -> "HeadMotion":
        """The same motion with a quick turn of a fifth of a second about once per second."""
        starts = np.cumsum(rng.uniform(0.6, 1.5, int(seconds / 0.6) + 1))
        count = len(starts)
        durations = rng.uniform(0.15, 0.25, count)
        x, y = rng.uniform(-0.45, 0.45, count), rng.uniform(-0.2, 0.25, count)
        glances = np.stack([starts, durations, x, y], axis=1)
        return replace(self, glances=glances[starts < seconds])

    def _glance(self, seconds: float) -> Float64:
        """(2,) offset of the gaze point after the turns up to this time."""
        place = np.zeros(2)
        for start, duration, *target in self.glances[self.glances[:, 0] < seconds]:
            progress = min((seconds - start) / duration, 1.0)
            place = place + smoothstep(progress) * (np.array(target) - place)
        return place


def smoothstep(progress: float) -> float:
    """0..1 → 0..1 with zero slope at both ends."""
    return progress * progress * (3 - 2 * progress)


def _swing(waves: Float64, seconds: float) -> Float64:
    return np.asarray(waves[:, 0] * np.sin(2 * np.pi * seconds / waves[:, 1] + waves[:, 2]))


def _look_at(origin: Float64, target: Float64, focal: float, rendition: Rendition) -> Camera:
    forward = (target - origin) / np.linalg.norm(target - origin)
    right = np.cross(forward, [0.0, 0.0, 1.0])  # horizontal, so the camera has no roll
    right /= np.linalg.norm(right)
    rotation = np.stack([right, np.cross(forward, right), forward])
    return Camera(
        origin=origin.astype(np.float32),
        rotation=rotation.astype(np.float32),
        focal=focal,
        rendition=rendition,
    )
