"""Other people's prepared folders as roots, and back: nothing lost, nothing invented."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from tiny_root import EGO, make_tiny_root

from egoexo_tools.checks.validate import validate
from egoexo_tools.cli import main
from egoexo_tools.errors import DataError, SettingsError
from egoexo_tools.importing.roots import import_lm_eec, import_processed
from egoexo_tools.layout import DatasetRoot
from egoexo_tools.manifests import read_manifest
from egoexo_tools.running.records import RunOptions
from egoexo_tools.stages.export import run_export
from egoexo_tools.stages.pairs import run_pairs

INLINE = RunOptions(executor="inline", quiet=True)
VAL = "33333333-0000-4000-8000-000000000003"
FIRST = "11111111-0000-4000-8000-000000000001"


@pytest.fixture(scope="module")
def templates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`original`, the tiny root with its pairs listed, and `export`, its export for O-MaMa."""
    folder = tmp_path_factory.mktemp("templates")
    root = make_tiny_root(folder / "original")
    run_pairs(root, run=RunOptions(executor="inline", quiet=True, overwrite=True)).check()
    run_export(root, "omama", folder / "export", run=INLINE).check()
    shutil.rmtree(folder / "export" / ".egoexo-tools")
    return folder


@pytest.fixture
def original(templates: Path, tmp_path: Path) -> DatasetRoot:
    return DatasetRoot(Path(shutil.copytree(templates / "original", tmp_path / "original")))


@pytest.fixture
def processed(templates: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(templates / "export", tmp_path / "theirs"))


def rows(root: DatasetRoot, table: str, *columns: str) -> list[tuple[Any, ...]]:
    values = read_manifest(root, table, columns=list(columns)).to_pylist()
    return sorted(tuple(map(str, row.values())) for row in values)


def edit(path: Path, change: Any) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def check_all(summaries: Any) -> None:
    for summary in summaries:
        summary.check()


@pytest.mark.slow
def test_an_imported_folder_equals_the_exported_root(
    original: DatasetRoot, processed: Path, root: DatasetRoot
) -> None:
    check_all(import_processed(root, processed, run=INLINE))
    for table, columns in {
        "takes": ("take_uid", "split", "ego_camera", "exo_cameras"),
        "frames": ("take_uid", "camera", "frame_idx", "path", "height", "width"),
        "proposals": ("take_uid", "camera", "frame_idx", "proposal_idx", "rle_counts"),
        "pairs": ("pair_id", "split", "direction"),
    }.items():
        assert rows(root, table, *columns) == rows(original, table, *columns), table
    visible = [row for row in rows(original, "masks", "take_uid", "object_name", "camera",
               "frame_idx", "visible", "rle_counts", "area") if row[4] == "True"]  # fmt: skip
    assert visible == rows(root, "masks", "take_uid", "object_name", "camera", "frame_idx",
                           "visible", "rle_counts", "area")  # fmt: skip
    reasons = read_manifest(root, "exclusions")["reason"].to_pylist()
    assert sum("cannot be distinguished" in reason for reason in reasons) == 4
    assert validate(root, files=True) == []
    frame = root.frame(FIRST, EGO, 0)
    assert frame.samefile(DatasetRoot(processed).frame(FIRST, EGO, 0))
    assert import_processed(root, processed, run=INLINE)[0].skipped == 4
    run_pairs(root, run=INLINE).check()  # every later command works on it


@pytest.mark.slow
def test_an_annotation_of_the_cached_fork_has_absent_objects(
    original: DatasetRoot, processed: Path, root: DatasetRoot
) -> None:
    for path in (processed / "processed").glob("*/annotation.json"):
        uid = path.parent.name
        annotated: dict[str, Any] = {}
        for row in read_manifest(original, "masks", units=[uid]).to_pylist():
            track = annotated.setdefault(row["object_name"], {}).setdefault(row["camera"], [])
            track.append(row["frame_idx"])
        shipped = {
            name: {camera: {"annotated_frames": frames} for camera, frames in cameras.items()}
            for name, cameras in annotated.items()
        }
        edit(path, lambda content, shipped=shipped: content.update(object_masks=shipped))
    check_all(import_processed(root, processed, run=INLINE))
    columns = ("take_uid", "object_name", "camera", "frame_idx", "visible")
    assert rows(root, "masks", *columns) == rows(original, "masks", *columns)
    assert not read_manifest(root, "exclusions").num_rows


@pytest.mark.slow
def test_added_frames_are_imported(processed: Path, root: DatasetRoot) -> None:
    import_processed(root, processed, run=INLINE)
    frame = processed / "processed" / FIRST / "cam01" / "90.jpg"
    shutil.copyfile(frame, frame.with_name("120.jpg"))
    assert import_processed(root, processed, run=INLINE)[0].skipped == 3
    assert root.frame(FIRST, "cam01", 120).is_file()


@pytest.mark.slow
def test_every_later_command_accepts_proposals_without_scores(
    original: DatasetRoot, processed: Path, root: DatasetRoot, tmp_path: Path
) -> None:
    from omama.cli import main as omama

    check_all(import_processed(root, processed, run=INLINE))
    assert set(read_manifest(root, "proposals")["score"].to_pylist()) == {None}
    inline = ["--executor", "inline", "--quiet"]
    knn = ["--direction", "ego2exo", "--split", "test", "--method", "knn", "--backbone",
           "efficientnet-lite0"]  # fmt: skip
    for group, message in (
        (main, ["validate", str(root.path)]),
        (main, ["status", str(root.path)]),
        (main, ["stats", str(root.path)]),
        (main, ["view", str(root.path), "--take", FIRST, "-o", str(tmp_path / "view.html")]),
        *((main, ["export", str(root.path), "--format", name, "-o", str(tmp_path / name), *inline])
          for name in ("omama", "coco", "hf", "sam2", "lm-eec")),
        (omama, ["features", str(root.path), "--backbone", "efficientnet-lite0", *inline]),
        (omama, ["predict", str(root.path), *knn]),
        (main, ["ground-truth", str(root.path), "--direction", "ego2exo", "--split", "test",
                "--out", str(tmp_path / "truth.json")]),
    ):  # fmt: skip
        result = CliRunner().invoke(group, message)
        assert result.exit_code == 0, (message, result.output)
    (predictions,) = root.runs.glob("*/predictions.parquet")
    message = [
        "evaluate",
        "--predictions",
        str(predictions),
        "--ground-truth",
        str(tmp_path / "truth.json"),
    ]
    result = CliRunner().invoke(main, [*message, "--protocol", "omama", "--root", str(root.path)])
    assert result.exit_code == 0, result.output


@pytest.mark.slow
def test_a_processed_folder_becomes_a_root_in_place(processed: Path) -> None:
    before = (processed / "takes.json").read_bytes()
    result = CliRunner().invoke(
        main, ["import", "processed", str(processed), "--executor", "inline", "--quiet"]
    )
    assert result.exit_code == 0, result.output
    assert (
        "import-processed: 4 done" in result.output and "cannot be distinguished" in result.output
    )
    assert (processed / "takes.json").read_bytes() == before
    assert read_manifest(DatasetRoot(processed), "takes").num_rows == 4


@pytest.mark.slow
def test_an_invalid_value_excludes_its_own_row(processed: Path, root: DatasetRoot) -> None:
    def spoil(content: Any) -> None:
        masks = content["masks"]["red cup"]["cam01"]
        masks["00030"] = masks.pop("30")
        masks["60"] = None
        masks["90"] = {"size": [560, 896], "counts": "?"}
        masks["x"] = masks["0"]
        content["masks"]["red cup"]["aria02"] = {"0": masks["0"]}

    folder = processed / "processed" / FIRST
    edit(folder / "annotation.json", spoil)
    (folder / "cam01" / "30.jpg").write_bytes(b"no")
    (folder / "cam01" / "._0.jpg").write_bytes(b"AppleDouble")
    (folder / "cam01" / "x.png").write_bytes(b"no")
    pairs = processed / "dataset_jsons" / "train_egoexo_pairs.json"
    pairs.write_text(json.dumps([*json.loads(pairs.read_text()), "?", ["a"] * 4]))
    stack = next((processed / "Masks_TRAIN_EGO2EXO" / FIRST / "cam01").glob("*_masks.npz"))
    stack.write_bytes(stack.read_bytes()[:-40])
    check_all(import_processed(root, processed, run=INLINE))
    reasons = "\n".join(read_manifest(root, "exclusions")["reason"].to_pylist())
    for message in (
        "undecodable mask: null", "do not add up", "'x' is not a frame number", "two ego cameras",
        "30.jpg is not a picture", "x.png is not a JPEG",
        f"{stack.name} cannot be read", "its source has no mask",
    ):  # fmt: skip
        assert message in reasons, (message, reasons)
    assert "is not a pair" in reasons and "._" not in reasons
    masks = read_manifest(root, "masks", units=[FIRST]).to_pylist()
    frames = [row["frame_idx"] for row in masks
              if (row["object_name"], row["camera"]) == ("red cup", "cam01")]  # fmt: skip
    assert frames == [0, 30]


@pytest.mark.slow
def test_a_pair_without_destination_masks_stays(processed: Path, root: DatasetRoot) -> None:
    path = processed / "processed" / FIRST / "annotation.json"
    edit(path, lambda content: content["masks"]["green box/lid"].update(cam01={}))
    check_all(import_processed(root, processed, run=INLINE))
    pairs = read_manifest(root, "pairs", units=["train.ego2exo"]).to_pylist()
    states = [row["dest_state"] for row in pairs
              if (row["take_uid"], row["object_name"]) == (FIRST, "green box/lid")]  # fmt: skip
    assert states and set(states) == {"unannotated"}
    assert validate(root, files=True) == []


def test_an_imported_lm_eec_folder_equals_the_exported_root(
    original: DatasetRoot, root: DatasetRoot, tmp_path: Path
) -> None:
    run_export(original, "lm-eec", tmp_path / "theirs", run=INLINE).check()
    check_all(import_lm_eec(root, tmp_path / "theirs", run=INLINE))
    for table, columns in {
        "takes": ("take_uid", "split", "ego_camera", "exo_cameras"),
        "frames": ("take_uid", "camera", "frame_idx", "path", "height", "width"),
        "masks": ("take_uid", "object_name", "camera", "frame_idx", "visible", "rle_counts"),
    }.items():
        assert rows(root, table, *columns) == rows(original, table, *columns), table
    assert validate(root, files=True) == []


def test_an_empty_mask_in_an_lm_eec_file_means_absent(
    original: DatasetRoot, root: DatasetRoot, tmp_path: Path
) -> None:
    folder = tmp_path / "theirs"
    run_export(original, "lm-eec", folder, run=INLINE).check()
    for path in folder.glob("*/*/annotation.json"):
        edit(path, lambda c: (c.pop("annotated_frames"), c.pop("object_names")))
    result = CliRunner().invoke(
        main,
        ["import", "lm-eec", str(folder), "--root", str(root.path), "--executor", "inline",
         "--quiet"],
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    masks = read_manifest(root, "masks").to_pylist()
    assert {row["object_name"] for row in masks} == {"red cup", "green box/lid", "blue bowl"}
    states = {(row["object_name"], row["camera"], row["frame_idx"]): row["visible"]
              for row in masks if row["take_uid"] == FIRST}  # fmt: skip
    assert states["green box/lid", "cam01", 30] is False


def test_other_folders_are_refused(root: DatasetRoot, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="has no folder `processed`"):
        import_processed(root, tmp_path / "empty", run=INLINE)
    with pytest.raises(DataError, match="holds no takes; it must look like"):
        import_lm_eec(root, tmp_path / "empty", run=INLINE)


def test_a_root_of_other_takes_is_not_mixed(original: DatasetRoot, processed: Path) -> None:
    with pytest.raises(SettingsError, match="from another source"):
        import_processed(original, processed, run=INLINE)


@pytest.mark.slow
def test_links_are_followed_and_names_matched(
    processed: Path, root: DatasetRoot, tmp_path: Path
) -> None:
    folder = processed / "processed" / VAL / "cam01"
    folder.rename(tmp_path / "elsewhere")
    folder.mkdir()
    for path in (tmp_path / "elsewhere").iterdir():
        (folder / path.name).symlink_to(os.path.relpath(path, folder))
    for path in processed.glob("processed/*/annotation.json"):
        path.write_text(path.read_text().replace("red cup", "cafe\\u0301"))
    for path in processed.glob("dataset_jsons/*.json"):
        path.write_text(path.read_text().replace("red cup", "caf\\u00e9"))
    (processed / "takes.json").write_text("{}")
    check_all(import_processed(root, processed, run=INLINE))
    assert not any(path.is_symlink() for path in root.processed.rglob("*.jpg"))
    assert root.frame(VAL, "cam01", 0).read_bytes()
    names = set(read_manifest(root, "pairs")["object_name"].to_pylist())
    assert names == {"cafe\u0301", "green box/lid"}
    reasons = read_manifest(root, "exclusions")["reason"].to_pylist()
    assert any("takes.json is not a list of takes" in reason for reason in reasons)
