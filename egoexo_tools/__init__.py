"""Turns an Ego-Exo4D release into a checked, queryable dataset of correspondence pairs.

The names below are the public interface; each is imported on first use. Import everything else
from its own module: `from egoexo_tools.video.frames import probe`.
"""

from typing import TYPE_CHECKING

from egoexo_tools import lazy

__version__ = "0.1.0"

if TYPE_CHECKING:
    from egoexo_tools.errors import DataError as DataError
    from egoexo_tools.errors import SettingsError as SettingsError
    from egoexo_tools.layout import DatasetRoot as DatasetRoot
    from egoexo_tools.layout import Release as Release
    from egoexo_tools.manifests import read_manifest as read_manifest
    from egoexo_tools.manifests import write_manifest as write_manifest
    from egoexo_tools.masks.rle import MaskRle as MaskRle
    from egoexo_tools.running.records import RunOptions as RunOptions
    from egoexo_tools.running.records import Unit as Unit
    from egoexo_tools.running.stage import run_stage as run_stage
    from egoexo_tools.video.frames import read_frames as read_frames
    from egoexo_tools.vocab import Direction as Direction
    from egoexo_tools.vocab import Split as Split
    from egoexo_tools.vocab import View as View
else:
    __getattr__, __dir__, __all__ = lazy.exports(
        __name__,
        {
            "errors": ("DataError", "SettingsError"),
            "layout": ("DatasetRoot", "Release"),
            "manifests": ("read_manifest", "write_manifest"),
            "masks.rle": ("MaskRle",),
            "running.records": ("RunOptions", "Unit"),
            "running.stage": ("run_stage",),
            "video.frames": ("read_frames",),
            "vocab": ("Direction", "Split", "View"),
        },
    )
