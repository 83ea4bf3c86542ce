"""The stats page: charts without numbers that cannot be drawn, and text from files."""

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pandas as pd
from click.testing import CliRunner
from tiny_root import EGO, make_tiny_root

from egoexo_tools.cli import main
from egoexo_tools.layout import DatasetRoot
from egoexo_tools.manifests import write_manifest
from egoexo_tools.viewing.stats import collect
from egoexo_tools.viewing.stats_page import write_page


def test_a_drift_that_is_only_later_is_drawn(tmp_path: Path) -> None:
    root = DatasetRoot(tmp_path)
    write_manifest(root, "takes", "a", [{"take_uid": "a", "take_name": "a", "split": "train"}])
    row = {"take_uid": "a", "object_name": "cup", "camera": EGO, "view": "ego", "visible": True}
    row |= {"rle_height": 10, "rle_width": 10, "area": 4, "bbox_xywh": [1, 1, 2, 2]}
    write_manifest(root, "masks", "a", [{**row, "frame_idx": frame} for frame in (0, 30_000)])
    tables = collect(root)
    assert tables["drift"].rows["up_to_seconds"].tolist() == [float("inf")]
    write_page(tables, tmp_path / "page.html", title="late")
    page = (tmp_path / "page.html").read_text()
    assert ">later<" in page and '"nan' not in page and "nan," not in page and ",nan" not in page


def test_command_writes_parquet_and_a_page(tmp_path: Path) -> None:
    root = make_tiny_root(tmp_path / "root")
    path = root.part("takes", sorted(root.table("takes").glob("*.parquet"))[0].stem)
    take = pd.read_parquet(path).to_dict("records")[0]
    write_manifest(root, "takes", path.stem, [{**take, "scenario": "<b>Cooking</b> & more"}])
    page, folder = tmp_path / "stats.html", tmp_path / "tables"
    arguments = ["stats", str(root.path), "--parquet", str(folder), "--html", str(page)]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    assert "Change over time" in result.output and "ego2exo pairs" in result.output
    tables = collect(root)
    assert {path.stem for path in folder.iterdir()} == set(tables)
    tracks = pd.read_parquet(folder / "tracks.parquet")
    assert len(tracks) == 21 and tracks["frames"].sum() == 80
    text = page.read_text()
    assert "<b>Cooking</b>" not in text and "&lt;b&gt;Cooking&lt;/b&gt; &amp; more" in text
    assert not re.search(r'(?:src|href)="|@import|url\(', text), "the page needs nothing beside it"
    drawings = re.findall(r"<svg.*?</svg>", text, re.S)
    assert len(drawings) == 10
    for drawing in drawings:
        numbers = re.findall(r' (?:x|y|width|height|cx|cy)="([^"]*)"', drawing)
        assert ElementTree.fromstring(drawing).tag == "svg"
        assert all(0 <= float(number) <= 900 for number in numbers)
