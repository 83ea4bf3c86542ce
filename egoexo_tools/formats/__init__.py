"""Other tools' files, each format read and written in one module. EXPORTERS is where one to write
is entered; `source` says what its module holds.
"""

from typing import TYPE_CHECKING

from egoexo_tools import lazy

if TYPE_CHECKING:
    from egoexo_tools.formats.benchmark import read_annotation as read_annotation
    from egoexo_tools.formats.benchmark import read_pairs as read_pairs
    from egoexo_tools.formats.benchmark import read_splits as read_splits
    from egoexo_tools.formats.benchmark import write_annotation as write_annotation
    from egoexo_tools.formats.benchmark import write_pairs as write_pairs
    from egoexo_tools.formats.benchmark import write_splits as write_splits
    from egoexo_tools.formats.mask_json import read_coco as read_coco
    from egoexo_tools.formats.mask_json import read_mask_json as read_mask_json
    from egoexo_tools.formats.mask_json import read_sam as read_sam
    from egoexo_tools.formats.pictures import picture_size as picture_size
    from egoexo_tools.formats.pictures import read_labels as read_labels
    from egoexo_tools.formats.pictures import read_mask as read_mask
    from egoexo_tools.formats.pictures import read_picture as read_picture
    from egoexo_tools.formats.registry import EXPORTERS as EXPORTERS
    from egoexo_tools.formats.registry import exporter as exporter
    from egoexo_tools.formats.source import Exporter as Exporter
else:
    __getattr__, __dir__, __all__ = lazy.face(
        __name__,
        {
            "benchmark": (
                "read_annotation",
                "read_pairs",
                "read_splits",
                "write_annotation",
                "write_pairs",
                "write_splits",
            ),
            "mask_json": ("read_coco", "read_mask_json", "read_sam"),
            "pictures": ("picture_size", "read_labels", "read_mask", "read_picture"),
            "registry": ("EXPORTERS", "exporter"),
            "source": ("Exporter",),
        },
    )
