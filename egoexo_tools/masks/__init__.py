"""Masks: run lengths, columns of many, bitmaps."""

from typing import TYPE_CHECKING

from egoexo_tools import lazy

if TYPE_CHECKING:
    from egoexo_tools.masks.columns import MaskColumns as MaskColumns
    from egoexo_tools.masks.rle import MaskRle as MaskRle
else:
    __getattr__, __dir__, __all__ = lazy.face(
        __name__,
        {
            "columns": ("MaskColumns",),
            "rle": ("MaskRle",),
        },
    )
