"""Cameras: where they stand, how a view renders colour, how the wearer's head moves.

A camera looks along its own z, x to the right, y down. Each kind of camera has one colour
rendition, the same in every take: that is what can be learned on some objects and carried over
to others.
"""

from dataclasses import dataclass, field, replace
from functools import lru_cache

import numpy as np

from egoexo_tools.arrays import Bytes, Float32, Float64
from egoexo_tools.vocab import FPS


@dataclass(frozen=True)
class Rendition:
    """Scene colour → picture: saturation and hue, white balance, exposure, vignetting, gamma.

    Smooth and, short of the clipped ends, invertible.
    """

    saturation: float
    hue_degrees: float
    balance: tuple[float, float, float]
    """Gain of red, green, blue; exposure included."""
    gamma: float
    """The picture is light to this power, so above 1 is darker."""
    vignetting: float
    """The light that the frame's corners lose, 0..1."""

    @property
    def matrix(self) -> Float32:
        """(3, 3): light after saturation, hue and white balance."""
        return _colour_matrix(self)

    @property
    def curve(self) -> Bytes:
        """(256,): light → the picture's value."""
        return _gamma_curve(self.gamma)


@lru_cache
def _colour_matrix(rendition: Rendition) -> Float32:
    angle = np.deg2rad(rendition.hue_degrees)
    # Rotation about the grey axis (Rodrigues), after a pull towards grey.
    grey = np.full((3, 3), 1 / 3)
    cross = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / np.sqrt(3)
    turn = grey + np.cos(angle) * (np.eye(3) - grey) + np.sin(angle) * cross
    pull = rendition.saturation * np.eye(3) + (1 - rendition.saturation) * grey
    return np.asarray(np.diag(rendition.balance) @ turn @ pull, dtype=np.float32)


@lru_cache
def _gamma_curve(gamma: float) -> Bytes:
    return np.round(255 * (np.arange(256) / 255) ** gamma).astype(np.uint8)


EGO_RENDITION = Rendition(
    saturation=0.9, hue_degrees=-4, balance=(1.0, 0.91, 0.79), gamma=1.1, vignetting=0.4
)
EXO_RENDITION = Rendition(
    saturation=0.95, hue_degrees=4, balance=(0.87, 0.95, 1.0), gamma=0.9, vignetting=0.15
)


@dataclass(frozen=True)
class Camera:
    """A pinhole camera at one instant; the principal point is the middle of the frame."""

    origin: Float32
    """(3,) in metres."""
    rotation: Float32
    """(3, 3), world to camera."""
    focal: float
    """In pixels."""
    rendition: Rendition


@dataclass(frozen=True)
class ExoPlace:
    """A fixed camera on a stand."""

    azimuth: float
    """Radians from the x axis; the wearer sits at -pi / 2."""
    elevation: float
    distance: float
    focal_widths: float
    """Focal length in frame long sides."""

    def camera(self, height: int, width: int) -> Camera:
        flat = self.distance * np.cos(self.elevation)
        origin = np.array(
            [
                flat * np.cos(self.azimuth),
                flat * np.sin(self.azimuth),
                self.distance * np.sin(self.elevation),
            ]
        )
        focal = self.focal_widths * max(height, width)
        return _look_at(origin, np.array([0.0, 0.0, 0.03]), focal, EXO_RENDITION)

    @classmethod
    def draw(cls, rng: np.random.Generator, number: int) -> "ExoPlace":
        """The first across the table from the wearer, further ones to its sides."""
        side = (0.0, 1.15, -1.15, 0.6)[number % 4]
        return cls(
            azimuth=np.pi / 2 + side + rng.uniform(-0.45, 0.45),
            elevation=rng.uniform(0.66, 0.86),
            distance=rng.uniform(1.2, 1.34),
            focal_widths=0.94,
        )


@dataclass(frozen=True)
class HeadMotion:
    """The wearer's head: slow, smooth, different in every take; lively ones also turn quickly."""

    place: tuple[float, float, float]
    gaze: Float64
    """(2, 3): amplitude in metres, period in seconds, phase, of the gaze point's x and y."""
    sway: Float64
    """(3, 3): the same of the head's x, y and z."""
    glances: Float64 = field(default_factory=lambda: np.zeros((0, 4)))
    """(n, 4): start and length of a quick turn, in seconds, and the x, y that it turns to."""

    def camera(self, frame_idx: int, height: int, width: int) -> Camera:
        seconds = frame_idx / FPS
        origin = np.array(self.place) + _swing(self.sway, seconds)
        flat = _swing(self.gaze, seconds) + [0.0, -0.03] + self._glance(seconds)
        target = np.append(flat, 0.02)
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
        """The same head, turning to another place about once a second, in a fifth of one."""
        starts = np.cumsum(rng.uniform(0.6, 1.5, int(seconds / 0.6) + 1))
        count = len(starts)
        lengths = rng.uniform(0.15, 0.25, count)
        x, y = rng.uniform(-0.45, 0.45, count), rng.uniform(-0.2, 0.25, count)
        glances = np.stack([starts, lengths, x, y], axis=1)
        return replace(self, glances=glances[starts < seconds])

    def _glance(self, seconds: float) -> Float64:
        """(2,) where the last turn leads to, or how far it has come."""
        place = np.zeros(2)
        for start, length, *goal in self.glances[self.glances[:, 0] < seconds]:
            part = min((seconds - start) / length, 1.0)
            place = place + part * part * (3 - 2 * part) * (np.array(goal) - place)
        return place


def _swing(waves: Float64, seconds: float) -> Float64:
    return np.asarray(waves[:, 0] * np.sin(2 * np.pi * seconds / waves[:, 1] + waves[:, 2]))


def _look_at(origin: Float64, target: Float64, focal: float, rendition: Rendition) -> Camera:
    forward = (target - origin) / np.linalg.norm(target - origin)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    rotation = np.stack([right, np.cross(forward, right), forward])
    return Camera(
        origin=origin.astype(np.float32),
        rotation=rotation.astype(np.float32),
        focal=focal,
        rendition=rendition,
    )
