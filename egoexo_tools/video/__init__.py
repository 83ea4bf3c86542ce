"""Exact frames out of videos, and videos out of frames."""

from typing import TYPE_CHECKING

from egoexo_tools import lazy

if TYPE_CHECKING:
    from egoexo_tools.video.frames import MissingFrames as MissingFrames
    from egoexo_tools.video.frames import ReadReport as ReadReport
    from egoexo_tools.video.frames import VideoInfo as VideoInfo
    from egoexo_tools.video.frames import probe as probe
    from egoexo_tools.video.frames import read_frames as read_frames
    from egoexo_tools.video.writer import VideoWriter as VideoWriter
else:
    __getattr__, __dir__, __all__ = lazy.face(
        __name__,
        {
            "frames": ("MissingFrames", "ReadReport", "VideoInfo", "probe", "read_frames"),
            "writer": ("VideoWriter",),
        },
    )
