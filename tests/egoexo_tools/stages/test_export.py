"""Exports are resumed, and name what they cannot write."""

import pytest
from click.testing import CliRunner
from exports import RUN, drop_frame, export
from tiny_root import EGO, TAKES

from egoexo_tools.cli import main
from egoexo_tools.errors import DataError, SettingsError
from egoexo_tools.formats.registry import EXPORTERS
from egoexo_tools.layout import DatasetRoot
from egoexo_tools.manifests import read_manifest, write_manifest
from egoexo_tools.stages.export import run_export

FIRST, SECOND, VAL, TEST = TAKES


@pytest.mark.slow
@pytest.mark.parametrize("format_name", list(EXPORTERS))
def test_an_export_is_resumed_and_rejects_other_folders(
    root: DatasetRoot, format_name: str
) -> None:
    out = export(root, format_name)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.jpg")}
    summary = run_export(root, format_name, out, run=RUN)
    assert (summary.done, summary.failed) == (0, ())
    assert before == {path: path.stat().st_mtime_ns for path in out.rglob("*.jpg")}
    assert not list(root.path.parent.rglob("*.partial"))
    other = next(name for name in EXPORTERS if name != format_name)
    with pytest.raises(SettingsError, match="format="):
        run_export(root, other, out, run=RUN)
    nonempty = root.path.parent / "nonempty"
    nonempty.mkdir()
    (nonempty / "thesis.tex").write_text("mine")
    with pytest.raises(DataError, match="not empty"):
        run_export(root, format_name, nonempty, run=RUN)
    assert [path.name for path in nonempty.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize(
    ("table_name", "message"),
    [("frames", "egoexo-tools frames"), ("pairs", "egoexo-tools pairs"), ("takes", "ingest")],
)
def test_a_missing_table_is_named(root: DatasetRoot, table_name: str, message: str) -> None:
    for part in root.table(table_name).iterdir():
        part.unlink()
    root.table(table_name).rmdir()
    with pytest.raises(DataError, match=message):
        run_export(root, "omama", root.path.parent / "out", run=RUN)
    assert not (root.path.parent / "out").exists()


def test_a_missing_frame_fails_its_take(root: DatasetRoot) -> None:
    root.frame(VAL, EGO, 0).unlink()
    summary = run_export(root, "lm-eec", root.path.parent / "out", run=RUN)
    assert [result.unit for result in summary.failed] == [f"take.{VAL}"]
    assert "not on disk" in summary.text()


@pytest.mark.slow
@pytest.mark.parametrize("format_name", list(EXPORTERS))
def test_a_frame_outside_the_root_is_not_exported(root: DatasetRoot, format_name: str) -> None:
    (root.path.parent / "secret.jpg").write_bytes(b"secret")
    frames = read_manifest(root, "frames", units=[f"{VAL}.{EGO}"]).to_pandas()
    frames.loc[0, "path"] = "../secret.jpg"
    write_manifest(root, "frames", f"{VAL}.{EGO}", frames)
    summary = run_export(root, format_name, root.path.parent / "out", run=RUN)
    assert "points outside" in summary.text()
    assert not any(b"secret" in p.read_bytes() for p in (root.path.parent / "out").rglob("*.jpg"))


def test_the_command_prints_what_was_left_out(root: DatasetRoot) -> None:
    drop_frame(root, FIRST, "cam02", 90)
    out = root.path.parent / "out"
    arguments = ["export", str(root.path), "--format", "coco", "-o", str(out)]
    result = CliRunner().invoke(main, [*arguments, "--executor", "inline", "--quiet"])
    assert result.exit_code == 0, result.output
    assert "export: 3 done" in result.output
    assert "1 left out, for the reasons in" in result.output
