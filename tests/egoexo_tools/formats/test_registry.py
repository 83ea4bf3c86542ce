import pytest

from egoexo_tools.errors import SettingsError
from egoexo_tools.formats.registry import EXPORTERS, load_exporter


def test_every_format_has_the_three_functions() -> None:
    for name in EXPORTERS:
        exporter = load_exporter(name)
        assert callable(exporter.units) and callable(exporter.work) and callable(exporter.finish)


def test_an_unknown_format_is_rejected() -> None:
    with pytest.raises(SettingsError, match="'yolo' is not an export format; use omama, lm-eec"):
        load_exporter("yolo")
