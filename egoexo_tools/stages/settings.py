"""What a user can choose about the stages' results; light, for commands read it for `--help`."""

from collections.abc import Mapping
from dataclasses import dataclass

from egoexo_tools.errors import SettingsError
from egoexo_tools.layout import DOWNSCALED_448

SAMPLINGS = ("annotated", "1fps")
"""Every annotated frame, or frames 0, 30, 60... of the whole video."""

SIZES: Mapping[str, tuple[int | None, float | None]] = {
    "processed": (None, None),
    "full": (None, 1.0),
    "448": (DOWNSCALED_448, None),
}
"""--size → short side of the copies to read, scale (None: the default of those copies)."""


@dataclass(frozen=True)
class FrameSettings:
    """What the pictures depend on besides the videos."""

    sampling: str = "annotated"
    """`annotated` or `1fps`."""
    short_side: int | None = None
    """None: the full-size videos; 448: the release's small copies."""
    ego_scale: float = 1 / 2
    """Of the video that is read."""
    exo_scale: float = 1 / 4
    jpeg_quality: int = 95

    def __post_init__(self) -> None:
        if self.sampling not in SAMPLINGS:
            raise SettingsError(f"{self.sampling!r} is no sampling; use {' or '.join(SAMPLINGS)}")
        if self.short_side not in (None, DOWNSCALED_448):
            raise SettingsError(f"there are no copies of {self.short_side} pixels; use 448 or none")
        for scale in (self.ego_scale, self.exo_scale):
            if not 0 < scale <= 1:
                raise SettingsError(f"scale is {scale:g}; it must lie above 0 and not above 1")
        if not 1 <= self.jpeg_quality <= 100:
            raise SettingsError(f"JPEG quality is {self.jpeg_quality}; it goes from 1 to 100")

    @classmethod
    def choose(
        cls,
        *,
        sampling: str = "annotated",
        short_side: int | None = None,
        scale: float | None = None,
        jpeg_quality: int = 95,
    ) -> "FrameSettings":
        """`scale` for both views; without it the recipe's, or 1 for the small copies."""
        if scale is None and short_side is not None:
            scale = 1.0
        return cls(
            sampling=sampling,
            short_side=short_side,
            ego_scale=cls.ego_scale if scale is None else scale,
            exo_scale=cls.exo_scale if scale is None else scale,
            jpeg_quality=jpeg_quality,
        )
