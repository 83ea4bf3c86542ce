"""EXPORTERS: the names that `export --format` accepts, and the module that writes each format.

The table holds names only. A module is imported when it is used, so that `--help`, which lists the
formats, stays fast.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from egoexo_tools.errors import SettingsError

if TYPE_CHECKING:
    from egoexo_tools.formats.source import Exporter

EXPORTERS: dict[str, str] = {
    "omama": "egoexo_tools.formats.omama",
    "lm-eec": "egoexo_tools.formats.lm_eec",
    "coco": "egoexo_tools.formats.coco",
    "sam2": "egoexo_tools.formats.sam2",
    "hf": "egoexo_tools.formats.hf",
    "objectrelator": "egoexo_tools.formats.objectrelator",
    "vggt-s": "egoexo_tools.formats.vggt_s",
}
"""Name → dotted module with `units`, `work` and `finish`, as described in source.py."""


def load_exporter(name: str) -> "Exporter":
    """The functions of a format; SettingsError for an unknown name."""
    from egoexo_tools.formats.source import Exporter

    if name not in EXPORTERS:
        raise SettingsError(f"{name!r} is not an export format; use {', '.join(EXPORTERS)}")
    module = import_module(EXPORTERS[name])
    return Exporter(module.units, module.work, module.finish)
