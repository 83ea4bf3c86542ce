import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from click.testing import CliRunner
from PIL import Image
from tiny_root import EGO, TAKES

from egoexo_tools.checks.validate import validate
from egoexo_tools.cli import main
from egoexo_tools.errors import DataError
from egoexo_tools.layout import DatasetRoot
from egoexo_tools.manifests import read_manifest, write_exclusions, write_manifest, write_table

FIRST, SECOND, VAL, TEST = TAKES


def edit(root: DatasetRoot, table: str, unit: str, change: Callable[[pd.DataFrame], Any]) -> None:
    """Rewrite one part with its rows changed (in place, or by what `change` returns)."""
    rows = read_manifest(root, table, units=[unit]).to_pandas().astype({})
    changed = change(rows)
    write_manifest(root, table, unit, rows if changed is None else changed)


def set_cell(row: int, column: str, value: Any) -> Callable[[pd.DataFrame], None]:
    def change(rows: pd.DataFrame) -> None:
        rows[column] = rows[column].astype(object)
        rows.at[row, column] = value

    return change


def with_duplicates(rows: pd.DataFrame) -> pd.DataFrame:
    return pd.concat([rows, rows.iloc[:2]])


def without_row(row: int) -> Callable[[pd.DataFrame], pd.DataFrame]:
    return lambda rows: rows.drop(index=row)


def problems_of(root: DatasetRoot, *, files: bool = False) -> dict[tuple[str, str], int]:
    return {
        (finding.table, finding.problem): finding.count for finding in validate(root, files=files)
    }


def test_a_sound_root_has_no_findings(root: DatasetRoot) -> None:
    assert validate(root, files=True) == []


MASKS = "masks"
CUP, CUP_AT_30 = 0, 1
GREEN_EXO_ABSENT = 16
PAIR = "val.ego2exo"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("table", "unit", "change", "problems"),
    [
        ("takes", VAL, with_duplicates, {"take_uid occurs more than once": 1}),
        ("takes", VAL, set_cell(0, "split", "dev"), {"the split is unknown": 1}),
        ("takes", VAL, set_cell(0, "ego_camera", "cam07"),
         {"the ego camera is not an ego camera": 1}),
        ("takes", VAL, set_cell(0, "exo_cameras", ["aria07"]),
         {"an exo camera is not an exo camera": 1}),
        (MASKS, VAL, with_duplicates, {"the key occurs more than once": 2}),
        (MASKS, VAL, set_cell(CUP, "view", "exo"), {"the view does not fit the camera": 1}),
        (MASKS, VAL, set_cell(CUP, "camera", "cam09"), {"the camera is not one of its take": 1}),
        (MASKS, VAL, set_cell(CUP, "take_uid", "x"),
         {"the take is not in the takes manifest": 1,
          "rows are in a part of another name": 1}),
        (MASKS, VAL, set_cell(CUP, "frame_idx", -30), {"frame_idx is negative": 1}),
        (MASKS, VAL, set_cell(CUP, "area", 1), {"the area is not that of the mask": 1}),
        (MASKS, VAL, set_cell(CUP, "bbox_xywh", [0.0, 0.0, 1.0, 1.0]),
         {"the box is not that of the mask": 1}),
        (MASKS, VAL, set_cell(CUP, "rle_counts", "~~"),
         {"the counts are not COCO compressed run lengths": 1}),
        (MASKS, VAL, set_cell(CUP, "rle_height", 281),
         {"the runs do not add up to height x width": 1}),
        (MASKS, VAL, set_cell(CUP, "visible", False),
         {"visible is not whether there is a mask": 1}),
        (MASKS, VAL, set_cell(CUP, "frame_idx", 45),
         {"the frame was neither extracted nor excluded": 1}),
        ("frames", f"{VAL}.{EGO}", with_duplicates, {"the key occurs more than once": 2}),
        ("frames", f"{VAL}.{EGO}", set_cell(0, "path", "../secret.jpg"),
         {"the path leaves the root": 1, "the file is missing": 1}),
        ("pairs", PAIR, with_duplicates, {"pair_id occurs more than once": 2}),
        ("pairs", PAIR, set_cell(0, "pair_id", "x"),
         {"pair_id does not match the other columns": 1}),
        ("pairs", PAIR, set_cell(0, "dest_state", "absent"),
         {"dest_state differs from the masks manifest": 1}),
        ("pairs", PAIR, set_cell(0, "split", "test"), {"the take is in another split": 1}),
        ("pairs", PAIR, set_cell(0, "direction", "exo2ego"),
         {"the source camera is not of the direction's view": 1,
          "the dest camera is not of the direction's view": 1}),
        ("proposals", f"{VAL}.cam01", with_duplicates,
         {"the key occurs more than once (parts counted)": 1}),
        ("proposals", f"{VAL}.cam01", set_cell(3, "area", 7),
         {"the area is not that of the mask": 1}),
        ("proposals", f"{VAL}.cam01", set_cell(3, "frame_idx", 31),
         {"the frame is not in the frames manifest (parts counted)": 1,
          "the mask has neither the frame's size nor the video's (parts counted)": 1}),
    ],
)  # fmt: skip
def test_each_kind_of_damage_is_named(
    root: DatasetRoot, table: str, unit: str, change: Any, problems: dict[str, int]
) -> None:
    edit(root, table, unit, change)
    findings = problems_of(root)
    in_table = {problem: count for (name, problem), count in findings.items() if name == table}
    assert in_table.items() >= problems.items(), findings


def test_pairs_are_compared_with_the_masks(root: DatasetRoot) -> None:
    edit(root, "masks", VAL, without_row(CUP))
    findings = problems_of(root)
    assert findings == {
        ("pairs", "the source has no visible mask"): 1,
        ("pairs", "dest_state differs from the masks manifest"): 1,
    }


def test_a_missing_frame_must_be_excluded(root: DatasetRoot) -> None:
    unit = f"{VAL}.cam01"
    edit(root, "frames", unit, without_row(0))
    edit(root, "proposals", unit, lambda rows: rows[rows["frame_idx"] != 0])
    assert problems_of(root) == {
        ("masks", "the frame was neither extracted nor excluded"): 2,
        ("pairs", "the dest frame was neither extracted nor excluded"): 2,
        ("pairs", "the source frame was neither extracted nor excluded"): 2,
        ("files", "a frame is not in the frames manifest"): 1,
    }
    row = {"take_uid": VAL, "camera": "cam01", "frame_idx": 0, "reason": "damaged video"}
    write_exclusions(root, "frames", unit, [row])
    assert problems_of(root) == {("files", "a frame is not in the frames manifest"): 1}
    write_exclusions(root, "frames", unit, [{**row, "frame_idx": 30}])
    assert problems_of(root)["exclusions", "a frame is excluded and extracted"] == 1


def test_exclusions_of_ingest_are_not_in_the_manifests(root: DatasetRoot) -> None:
    mask = {"take_uid": VAL, "object_name": "red cup", "camera": EGO, "frame_idx": 0}
    write_exclusions(
        root,
        "ingest",
        VAL,
        [{**mask, "reason": "undecodable"}, {"take_uid": FIRST, "reason": "redacted"},
         {**mask, "frame_idx": 1}],
    )  # fmt: skip
    assert problems_of(root) == {
        ("exclusions", "there is no reason"): 1,
        ("exclusions", "a mask is excluded and in the masks manifest"): 1,
        ("exclusions", "a take is excluded and in the takes manifest"): 1,
    }


def test_split_json_must_agree_with_the_takes(root: DatasetRoot) -> None:
    root.split_json.write_text(json.dumps({"train": [FIRST, SECOND, VAL], "test": [TEST, FIRST]}))
    assert problems_of(root) == {
        ("split.json", "a take is listed more than once"): 1,
        ("split.json", "a take has another split in the takes manifest"): 2,
    }


def test_files_are_compared_with_the_manifest(root: DatasetRoot) -> None:
    root.frame(VAL, EGO, 0).unlink()
    Image.new("RGB", (10, 20)).save(root.frame(VAL, EGO, 30))
    root.frame(VAL, EGO, 60).write_bytes(b"no picture")
    (root.frame(VAL, EGO, 60).parent / "90.jpg.partial").write_bytes(b"half")
    missing = {("frames", "the file is missing"): 1}
    partial = {("files", "half-written, from a run that was stopped"): 1}
    assert problems_of(root) == missing | partial
    sizes = {("frames", "the file has another size"): 2}
    assert problems_of(root, files=True) == missing | partial | sizes


def test_a_part_that_cannot_be_read_is_a_finding(root: DatasetRoot) -> None:
    root.part("masks", TEST).write_bytes(b"PAR1 not really")
    findings = problems_of(root)
    assert findings["masks", "a part cannot be read"] == 1
    assert findings["pairs", "the source has no visible mask"] == 13


def test_damaged_pages_are_a_finding(root: DatasetRoot) -> None:
    for table, unit in (("masks", TEST), ("pairs", "val.exo2ego"), ("proposals", f"{VAL}.cam01")):
        path = root.part(table, unit)
        data = bytearray(path.read_bytes())
        data[8:200] = bytes(192)  # after the magic number; the footer stays
        path.write_bytes(data)
    findings = problems_of(root)
    for table in ("masks", "pairs", "proposals"):
        assert findings[table, "a part cannot be read"] >= 1, findings


@pytest.mark.slow
@pytest.mark.parametrize(
    ("table", "unit", "column"),
    [
        ("masks", VAL, "frame_idx"),
        ("masks", VAL, "camera"),
        ("masks", VAL, "visible"),
        ("frames", f"{VAL}.{EGO}", "path"),
        ("pairs", PAIR, "dest_camera"),
        ("takes", VAL, "split"),
    ],
)
def test_empty_values_are_a_finding(root: DatasetRoot, table: str, unit: str, column: str) -> None:
    edit(root, table, unit, set_cell(0, column, None))
    assert problems_of(root)[table, "a value that every row needs is empty"] == 1


def test_runs_name_pairs_of_the_manifest(root: DatasetRoot) -> None:
    pair_ids = read_manifest(root, "pairs", units=["test.ego2exo"])["pair_id"].to_pylist()
    rows = [{"pair_id": pair_id} for pair_id in [*pair_ids, pair_ids[0], "unknown"]]
    write_table(root.runs / "ego2exo" / "predictions.parquet", "predictions", rows)
    assert problems_of(root) == {
        ("ego2exo/predictions", "pair_id occurs more than once"): 1,
        ("ego2exo/predictions", "the pair is not in the pairs manifest"): 1,
    }


def test_a_root_with_only_takes_and_masks_is_sound(root: DatasetRoot) -> None:
    for table in ("frames", "proposals", "pairs"):
        for part in root.table(table).iterdir():
            part.unlink()
    for path in root.processed.rglob("*.jpg"):
        path.unlink()
    assert validate(root, files=True) == []


def test_the_command_fails_with_findings(root: DatasetRoot, tmp_path: Path) -> None:
    def invoke(*arguments: str) -> tuple[int, str]:
        result = CliRunner().invoke(main, ["validate", *arguments])
        return result.exit_code, result.output

    assert invoke(str(root.path), "--files") == (0, "No findings.\n")
    edit(root, "pairs", PAIR, set_cell(0, "dest_state", "absent"))
    code, output = invoke(str(root.path))
    assert code == 1
    problem = "dest_state differs from the masks manifest"
    assert output.splitlines()[1].split("  ")[-2:] == [problem, f"{VAL}/{EGO}>cam01/0/red cup"]
    assert invoke(str(tmp_path / "nothing"))[0] == 1
    with pytest.raises(DataError, match="is not a dataset root"):
        validate(DatasetRoot(tmp_path / "nothing"))
