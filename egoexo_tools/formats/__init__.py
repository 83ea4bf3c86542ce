"""Formats of other programs, a module each, and the benchmark's own, which is read here too.

EXPORTERS is where one to write is entered; `source` says what its module holds. What people bring
along is read in `parsing`.
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
            "registry": ("EXPORTERS", "exporter"),
            "source": ("Exporter",),
        },
    )
