"""Exports are resumed, and name what they cannot write."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from exports import RUN, drop_frame, export
from tiny_root import EGO, TAKES

from egoexo_tools.cli import main
from egoexo_tools.errors import DataError, SettingsError
from egoexo_tools.formats.registry import EXPORTERS
from egoexo_tools.layout import DatasetRoot
from egoexo_tools.manifests import read_manifest, write_manifest
from egoexo_tools.stages.export import STATE_FOLDER, run_export
from egoexo_tools.stages.pairs import run_pairs

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
    assert "disappeared since the frames manifest" in summary.text()


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


def test_long_names_and_names_in_two_cases_are_exported_and_listed(
    root: DatasetRoot, tmp_path: Path
) -> None:
    """Both exports that make folders or lists of names, on a disk that may not see case."""
    long = "\u043a\u0440\u0443\u0436\u043a\u0430 " * 25  # 325 bytes
    renamed = {"red cup": long, "green box/lid": "Cup", "blue bowl": "cup"}
    (take,) = [t for t in read_manifest(root, "takes").to_pylist() if t["split"] == "val"]
    rows = read_manifest(root, "masks", units=[take["take_uid"]]).to_pylist()
    for row in rows:
        row["object_name"] = renamed[row["object_name"]]
    write_manifest(root, "masks", take["take_uid"], rows)
    run_export(root, "lm-eec", tmp_path / "out", run=RUN).check()
    content = json.loads(next((tmp_path / "out" / "val").glob("*/annotation.json")).read_text())
    assert len({name.casefold() for name in content["masks"]}) == 3
    assert max(len(name.encode()) for name in content["masks"]) <= 200
    original = json.loads((tmp_path / "out" / "object_names_val.json").read_text())
    assert set(original[take["take_uid"]].values()) >= {long}
    assert set(content["object_names"].values()) == set(renamed.values())
    run_export(root, "sam2", tmp_path / "sam2", run=RUN).check()
    numbers = json.loads(next((tmp_path / "sam2/val/objects").glob("*.json")).read_text())
    assert set(numbers.values()) <= set(renamed.values())


def test_the_lm_eec_export_has_a_mask_in_every_camera_and_frame(
    root: DatasetRoot, tmp_path: Path
) -> None:
    run_export(root, "lm-eec", tmp_path / "out", run=RUN).check()
    for path in (tmp_path / "out").glob("*/*/annotation.json"):
        content = json.loads(path.read_text())
        cameras = {folder.name for folder in path.parent.iterdir() if folder.is_dir()}
        for masks in content["masks"].values():
            assert set(masks) == cameras
            for frames in masks.values():
                assert set(frames) == {"0", "30", "60", "90"}


@pytest.mark.parametrize("format_name", EXPORTERS)
@pytest.mark.parametrize("gone", [list(TAKES)[0], VAL])
def test_a_take_in_another_split_leaves_nothing_in_the_old_one(
    root: DatasetRoot, tmp_path: Path, format_name: str, gone: str
) -> None:
    """Of two train takes one moves to test, or the only val take does, which empties val."""
    run_pairs(root, run=RUN).check()
    out = tmp_path / "out"
    run_export(root, format_name, out, run=RUN).check()
    (row,) = read_manifest(root, "takes", units=[gone]).to_pylist()
    write_manifest(root, "takes", gone, [{**row, "split": "test"}])
    if format_name in ("omama", "hf"):  # the formats with pairs
        with pytest.raises(DataError, match=f"hold take {gone}, which is in the test split now"):
            run_export(root, format_name, out, run=RUN)
    run_pairs(root, run=RUN).check()
    run_export(root, format_name, out, run=RUN).check()
    run_export(root, format_name, tmp_path / "fresh", run=RUN).check()
    assert exported(out) == exported(tmp_path / "fresh")


def exported(out: Path) -> dict[str, bytes]:
    """Relative path → content of an export's files, without its state."""
    return {
        path.relative_to(out).as_posix(): path.read_bytes()
        for path in out.rglob("*")
        if path.is_file() and STATE_FOLDER not in path.parts
    }
