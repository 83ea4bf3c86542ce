"""Settings of the stages. The module imports little, because commands read it for `--help`."""

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
"""--size → short side of the videos to read, scale (None: the default for these videos)."""


@dataclass(frozen=True)
class FrameSettings:
    """The settings that change the frames' pictures."""

    sampling: str = "annotated"
    """`annotated` or `1fps`."""
    short_side: int | None = None
    """None: the full-size videos; 448: the release's small copies."""
    ego_scale: float = 1 / 2
    """Relative to the video that is read."""
    exo_scale: float = 1 / 4
    jpeg_quality: int = 95

    def __post_init__(self) -> None:
        if self.sampling not in SAMPLINGS:
            raise SettingsError(
                f"{self.sampling!r} is not a sampling; use {' or '.join(SAMPLINGS)}"
            )
        if self.short_side not in (None, DOWNSCALED_448):
            raise SettingsError(
                f"the release has no videos with a short side of {self.short_side} pixels; use 448 "
                "or none"
            )
        for scale in (self.ego_scale, self.exo_scale):
            if not 0 < scale <= 1:
                raise SettingsError(f"scale is {scale:g}; it must be above 0 and at most 1")
        if not 1 <= self.jpeg_quality <= 100:
            raise SettingsError(f"JPEG quality is {self.jpeg_quality}; it must be from 1 to 100")

    @classmethod
    def choose(
        cls,
        *,
        sampling: str = "annotated",
        short_side: int | None = None,
        scale: float | None = None,
        jpeg_quality: int = 95,
    ) -> "FrameSettings":
        """Settings with one `scale` for both views; the default is 1 for the small copies."""
        if scale is None and short_side is not None:
            scale = 1.0
        return cls(
            sampling=sampling,
            short_side=short_side,
            ego_scale=cls.ego_scale if scale is None else scale,
            exo_scale=cls.exo_scale if scale is None else scale,
            jpeg_quality=jpeg_quality,
        )
