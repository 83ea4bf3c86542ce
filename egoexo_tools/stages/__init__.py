"""The steps from a release to a root's tables, one module each."""

from typing import TYPE_CHECKING

from egoexo_tools import lazy

if TYPE_CHECKING:
    from egoexo_tools.stages.export import run_export as run_export
    from egoexo_tools.stages.frames import run_frames as run_frames
    from egoexo_tools.importing.images import run_import_images as run_import_images
    from egoexo_tools.stages.ingest import run_ingest as run_ingest
    from egoexo_tools.stages.pairs import run_pairs as run_pairs
    from egoexo_tools.stages.propose import run_propose as run_propose
    from egoexo_tools.stages.settings import FrameSettings as FrameSettings
else:
    __getattr__, __dir__, __all__ = lazy.face(
        __name__,
        {
            "export": ("run_export",),
            "frames": ("run_frames",),
            "import_images": ("run_import_images",),
            "ingest": ("run_ingest",),
            "pairs": ("run_pairs",),
            "propose": ("run_propose",),
            "settings": ("FrameSettings",),
        },
    )
