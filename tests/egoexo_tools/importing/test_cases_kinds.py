"""More inputs of the kinds in test_cases: each was silently wrong, or cost more than itself."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from click.testing import CliRunner
from small_release import EGO, EXO, block, plain_take, shipped, takes_entry, write_release
from test_cases import HW, INLINE, SQUARE, areas, coco
from test_cases import root as root
from test_cases import take as take
from test_images import load, rle, square, states
from tiny_root import make_tiny_root

from egoexo_tools.cli import COMMANDS, main
from egoexo_tools.errors import DEBUG
from egoexo_tools.importing.images import STAGE
from egoexo_tools.importing.roots import import_processed
from egoexo_tools.layout import DatasetRoot
from egoexo_tools.manifests import read_manifest
from egoexo_tools.release.plan import plan_ingest
from egoexo_tools.release.survey import survey
from egoexo_tools.stages.export import run_export
from egoexo_tools.stages.ingest import run_ingest
from egoexo_tools.stages.left_out import left_out_text
from egoexo_tools.vocab import Split

OUTLINE = [[1, 1, 20, 1, 20, 20]]
VAL = "33333333-0000-4000-8000-000000000003"

# Own pictures


def told(root: DatasetRoot) -> str:
    return left_out_text(root, STAGE, reasons=99)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"images": [{"file_name": "ego/1.png", **HW}]}, "image 0 has no id"),
        ({"categories": [{"id": 7, "name": "pot"}, {"id": 7, "name": "pan"}]}, "or has two"),
        ({"categories": [{"id": 7, "name": {"a": 1}}]}, "has no object name"),
        ({"categories": [{"id": 7, "name": "po\ud800t"}]}, "has no object name"),
        ({"categories": [{"id": 7, "name": "po\0t"}]}, "has no object name"),
        ({"images": [{"id": 1, "file_name": "ego/1.png", **HW},
                     {"id": 1, "file_name": "ego/1.png", "height": 480, "width": 640}]},
         "two images have the id 1"),
    ],
)  # fmt: skip
def test_what_could_be_two_things_in_a_coco_file_is_neither(
    root: DatasetRoot, take: Path, change: dict[str, Any], words: str
) -> None:
    path = coco(take, [OUTLINE])
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    load(root, take.parent).check()
    assert words in told(root) and set(areas(root)) == {"cup"}


def test_a_key_that_comes_twice_is_told_in_every_file(root: DatasetRoot, take: Path) -> None:
    path = coco(take, [OUTLINE])
    twice = '"segmentation": [[1, 1, 5, 1, 5, 5]], "segmentation":'
    path.write_text(path.read_text().replace('"segmentation":', twice))
    mask = json.dumps(rle(SQUARE))
    text = f'[{{"label": "lid", "segmentation": {mask}, "segmentation": null}}]'
    (take / "phone" / "1.json").write_text(text)
    load(root, take.parent).check()
    assert told(root).count("two different values under one key") == 2
    assert set(areas(root)) == {"cup"}
    (take / "cameras.json").write_text('{"phone": "exo", "phone": "ego"}')
    assert "cameras.json" in load(root, take.parent).text()


def test_a_camera_that_is_named_and_not_there_is_told(root: DatasetRoot, take: Path) -> None:
    (take / "cameras.json").write_text('{"phone": "exo", "fone": "exo"}')
    load(root, take.parent).check()
    assert "cameras.json gives a view to `fone`" in told(root)


def test_names_that_differ_in_case_alone_are_never_absent(root: DatasetRoot, take: Path) -> None:
    (take / "ego" / "1" / "cup.png").rename(take / "ego" / "1" / "Cup.png")
    load(root, take.parent).check()
    assert states(root) == {("Cup", "aria_ego", 1): True, ("cup", "phone", 1): True}
    assert "'Cup' and 'cup' may be one object" in told(root)


def test_file_names_that_are_no_text_are_told(root: DatasetRoot, take: Path) -> None:
    folder = os.fsencode(take / "ego" / "1")
    os.rename(folder + b"/cup.png", folder + b"/tass\xe9.png")  # latin-1, out of an old zip
    load(root, take.parent).check()
    assert "tass\\udce9.png: its name is not valid text" in told(root)
    assert states(root) == {("cup", "phone", 1): True}


def test_a_mask_of_another_name_is_another_object(root: DatasetRoot, take: Path) -> None:
    load(root, take.parent).check()
    for camera in ("ego", "phone"):
        (take / camera / "1" / "cup.png").rename(take / camera / "1" / "mug.png")
    load(root, take.parent).check()
    assert set(areas(root)) == {"mug"}


def test_windows_notes_and_dead_links(root: DatasetRoot, take: Path) -> None:
    (take / "ego" / "1" / "cup.png:Zone.Identifier").write_text("[ZoneTransfer]")
    load(root, take.parent).check()
    assert not told(root)
    (take / "ego" / "1" / "lid.png").symlink_to("/nowhere/lid.png")
    load(root, take.parent).check()
    assert "lid.png is a link to a file that does not exist" in told(root)


def test_a_mask_with_nan_is_no_mask(root: DatasetRoot, take: Path) -> None:
    from PIL import Image

    values = np.full((48, 64), np.nan, np.float32)
    values[5:15, 5:15] = 1
    Image.fromarray(values).save(take / "ego" / "1" / "lid.tif")
    load(root, take.parent).check()
    assert "lid.tif is not a readable mask: some of its pixels are NaN" in told(root)


@pytest.mark.parametrize("suffix", ["gif", "tif", "webp"])
def test_a_file_of_several_pictures_is_refused(root: DatasetRoot, take: Path, suffix: str) -> None:
    from PIL import Image

    pages = [Image.fromarray(square(at, at, 9, **HW) * 255) for at in (0, 20)]
    path = take / "ego" / "1" / f"lid.{suffix}"
    pages[0].save(path, save_all=True, append_images=pages[1:], lossless=True)
    load(root, take.parent).check()
    assert f"lid.{suffix} holds 2 pictures" in told(root) and "lid" not in areas(root)


def test_numbers_are_names_and_huge_numbers_cost_themselves(root: DatasetRoot, take: Path) -> None:
    good = json.dumps(rle(SQUARE))
    bad = good.replace("48", "9" * 6000, 1)
    text = f'[{{"label": 5, "segmentation": {good}}}, {{"label": "x", "segmentation": {bad}}}]'
    (take / "ego" / "1.json").write_text(text)
    load(root, take.parent).check()
    assert areas(root) == {"5": 100, "cup": 100} and "mask 1 of 'x': size" in told(root)


def test_heic_is_read_where_its_reader_is_installed(root: DatasetRoot, take: Path) -> None:
    pillow_heif = pytest.importorskip("pillow_heif", reason="pillow-heif is not installed")
    from PIL import Image

    pillow_heif.register_heif_opener()
    (take / "ego" / "1.png").unlink()
    image = Image.fromarray(np.full((48, 64, 3), 90, np.uint8))
    image.save(take / "ego" / "1.jpg", format="HEIF")  # renamed by hand, as people do
    load(root, take.parent).check()
    assert states(root)["cup", "aria_ego", 1]


# The release


def ingest(
    root: DatasetRoot, folder: Path, take: Any, change: Callable[[str], str] = str, **entry: Any
) -> set[str]:
    """The reasons of what is left out of a release of one take."""
    release = write_release(folder, {"train": {"a": take}}, entries=[takes_entry("a", **entry)])
    path = release.relations_json(Split.TRAIN)
    path.write_text(change(path.read_text()))
    run_ingest(root, release, run=INLINE).check()
    return {row["reason"] for row in read_manifest(root, "exclusions").to_pylist()}


def rows(root: DatasetRoot, camera: str) -> dict[int, bool]:
    found = read_manifest(root, "masks").to_pylist()
    return {row["frame_idx"]: row["visible"] for row in found if row["camera"] == camera}


@pytest.mark.parametrize("value", [None, [], "x", 3])
def test_an_annotation_that_is_none_calls_nothing_absent(
    root: DatasetRoot, tmp_path: Path, value: Any
) -> None:
    take = plain_take()
    take["object_masks"]["cup_0"][EXO]["annotation"] = value
    reasons = ingest(root, tmp_path / "release", take)
    assert any(reason.startswith("its annotation is") for reason in reasons)
    assert rows(root, EXO) == {}


def test_two_masks_under_one_frame_are_none(root: DatasetRoot, tmp_path: Path) -> None:
    other = json.dumps(shipped(block(EXO, 2)))
    one = '"annotation": {"0": '
    reasons = ingest(
        root, tmp_path / "release", plain_take(),
        lambda text: text.replace(one, f'{one}{other}, "0": '),
    )  # fmt: skip
    assert any("or two different masks" in reason for reason in reasons)
    assert rows(root, EXO) == {30: True}


def test_paths_with_backslashes_name_their_camera(root: DatasetRoot, tmp_path: Path) -> None:
    videos = takes_entry("a")["frame_aligned_videos"]
    videos["aria01"]["rgb"]["relative_path"] = f"frame_aligned_videos\\{EGO}.mp4"
    assert ingest(root, tmp_path / "r", plain_take(), frame_aligned_videos=videos) == set()
    assert rows(root, EGO) == {0: True, 30: True, 60: False}


def test_names_that_are_no_text_cost_their_object(root: DatasetRoot, tmp_path: Path) -> None:
    take = plain_take()
    take["object_masks"]["c\ud800"] = take["object_masks"]["cup_0"]
    reasons = ingest(root, tmp_path / "release", take)
    assert any("its name cannot be written as text" in reason for reason in reasons)
    assert rows(root, EXO) == {0: True, 30: True}


def test_select_counts_what_ingest_reads(tmp_path: Path) -> None:
    take = plain_take()
    take["object_masks"]["cup_0"][EXO]["annotation"]["30"] = None
    take["object_masks"]["cup_0"][EXO]["annotated_frames"] = ["0", 30.0, "00060"]
    release = write_release(tmp_path / "release", {"train": {"a": take}})
    plan = plan_ingest(release)
    (facts,) = survey(release, plan)
    assert (facts.take_uid, facts.frame_idxs, plan.exclusions) == ("a", (0, 30, 60), [])


def test_a_split_file_is_read_by_its_meaning(root: DatasetRoot, tmp_path: Path) -> None:
    takes = {uid: plain_take() for uid in "abc"}
    release = write_release(tmp_path / "release", {"train": takes})
    release.splits_json.write_text('{"Train": [" a "], "VAL ": ["b"], "valid": ["c"]}')
    plan = plan_ingest(release)
    assert {uid: take.split for uid, take in plan.takes.items()} == {"a": "train", "b": "val"}
    reasons = [row["reason"] for row in plan.exclusions]
    assert "splits.json: 'valid' is not a split, so its takes are in none" in reasons


def test_videos_with_suffixes_in_capitals_are_found(tmp_path: Path) -> None:
    from egoexo_tools.layout import Release

    release = Release(tmp_path)
    path = release.video("take", "cam01")
    assert release.find_video("take", "cam01") == path
    path.parent.mkdir(parents=True)
    path.with_suffix(".MP4").write_bytes(b"x")
    assert release.find_video("take", "cam01") == path.with_suffix(".MP4")


# Prepared folders and predictions


def prepared(tmp_path: Path) -> Path:
    run_export(make_tiny_root(tmp_path / "ours"), "omama", tmp_path / "theirs", run=INLINE).check()
    return tmp_path / "theirs"


@pytest.mark.slow
def test_links_are_followed_and_spellings_brought_together(
    root: DatasetRoot, tmp_path: Path
) -> None:
    theirs = prepared(tmp_path)
    folder = theirs / "processed" / VAL / "cam01"
    folder.rename(tmp_path / "elsewhere")
    folder.mkdir()
    for path in (tmp_path / "elsewhere").iterdir():
        (folder / path.name).symlink_to(os.path.relpath(path, folder))
    for path in theirs.glob("processed/*/annotation.json"):
        path.write_text(path.read_text().replace("red cup", "cafe\\u0301"))
    for path in theirs.glob("dataset_jsons/*.json"):
        path.write_text(path.read_text().replace("red cup", "caf\\u00e9"))
    (theirs / "takes.json").write_text("{}")
    for summary in import_processed(root, theirs, run=INLINE):
        summary.check()
    assert not any(path.is_symlink() for path in root.processed.rglob("*.jpg"))
    assert root.frame(VAL, "cam01", 0).read_bytes()
    names = set(read_manifest(root, "pairs")["object_name"].to_pylist())
    assert names == {"cafe\u0301", "green box/lid"}
    reasons = read_manifest(root, "exclusions")["reason"].to_pylist()
    assert any("takes.json is not a list of takes" in reason for reason in reasons)


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> tuple[DatasetRoot, Path]:
    folder = tmp_path_factory.mktemp("scored")
    root = make_tiny_root(folder / "root")
    words = ["ground-truth", str(root.path), "--direction", "ego2exo", "--split", "val"]
    result = CliRunner().invoke(main, [*words, "--out", str(folder / "truth.json")])
    assert result.exit_code == 0, result.output
    return root, folder / "truth.json"


MASK = rle(square(40, 40, 60, height=140, width=224))


def predicted(change: Callable[[dict[str, Any]], None] = lambda frames: None) -> dict[str, Any]:
    frames = {str(idx): {"pred_mask": MASK, "confidence": 0.7} for idx in (0, 30, 60, 90)}
    change(frames)
    masks = {"red cup": {f"{EGO}_cam01": frames}}
    return {"ego-exo": {"results": {VAL: {"masks": masks, "subsample_idx": [0]}}}}


SAME: dict[str, Callable[[dict[str, Any]], None]] = {
    "bytes": lambda f: f["0"].update(pred_mask=MASK | {"counts": repr(MASK["counts"].encode())}),
    "text": lambda f: f["0"].update(confidence="0.7", pred_mask=MASK | {"size": ["140", "224"]}),
    "list": lambda f: f["0"].update(confidence=[0.7]),
    "padded": lambda f: f.update({"0030": f.pop("30")}),
    "ranked": lambda f: f["0"].update(top_proposal_idxs="abc"),
}
BAD: dict[str, Callable[[dict[str, Any]], None]] = {
    "null": lambda f: f.update({"0": None}),
    "half": lambda f: f["0"].update(pred_mask=MASK | {"size": [140.5, 224]}),
    "no confidence": lambda f: f["0"].pop("confidence"),
    "nan": lambda f: f["0"].update(confidence=float("nan")),
    "twice": lambda f: f.update({"00": f["0"]}),
}


def both(
    scored: tuple[DatasetRoot, Path], value: Any, folder: Path
) -> tuple[tuple[int, str], tuple[int, str]]:
    """Exit code and words of `import predictions` and of `evaluate` for the same file."""
    root, truth = scored
    path = folder / "theirs.json"
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    words = ["import", "predictions", str(path), "--root", str(root.path), "--run", folder.name]
    imported = CliRunner().invoke(main, words)
    words = ["evaluate", "--predictions", str(path), "--ground-truth", str(truth)]
    words += ["--protocol", "omama", "--out", str(folder / "out")]
    evaluated = CliRunner().invoke(main, words)
    return (imported.exit_code, imported.output), (evaluated.exit_code, evaluated.output)


@pytest.mark.parametrize("kind", SAME)
def test_a_prediction_file_means_the_same_in_both_commands(
    kind: str, scored: tuple[DatasetRoot, Path], tmp_path: Path
) -> None:
    imported, evaluated = both(scored, predicted(SAME[kind]), tmp_path)
    assert imported[0] == 0 and "4 predictions" in imported[1], imported
    assert evaluated[0] == 0 and "4 samples" in evaluated[1], evaluated


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_prediction_is_told_by_both_commands(
    kind: str, scored: tuple[DatasetRoot, Path], tmp_path: Path
) -> None:
    imported, evaluated = both(scored, predicted(BAD[kind]), tmp_path)
    assert imported[0] == 0 and "3 predictions" in imported[1] and "1 left out" in imported[1]
    assert (
        evaluated[0] == 1
        and "frame 0" in evaluated[1]
        and "error in the toolkit" not in evaluated[1]
    )


@pytest.mark.parametrize("pairs", [None, 5, [], {f"{EGO}_cam01": None}, {f"{EGO}_cam01": [[1]]}])
def test_an_object_without_predictions_costs_itself(
    pairs: Any, scored: tuple[DatasetRoot, Path], tmp_path: Path
) -> None:
    value = predicted()
    value["ego-exo"]["results"][VAL]["masks"]["green box/lid"] = pairs
    imported, evaluated = both(scored, value, tmp_path)
    assert imported[0] == 0 and "4 predictions" in imported[1] and "1 left out" in imported[1]
    assert "green box/lid" in evaluated[1] and "error in the toolkit" not in evaluated[1]


def test_predictions_under_a_key_that_comes_twice(
    scored: tuple[DatasetRoot, Path], tmp_path: Path
) -> None:
    text = json.dumps(predicted()).replace('"red cup": {', '"red cup": {}, "red cup": {')
    imported, evaluated = both(scored, text, tmp_path)
    assert imported[0] == 1 and "two different values under one key" in imported[1]
    assert evaluated[0] == 1 and "red cup" in evaluated[1]


def test_a_ground_truth_with_padded_numbers_is_the_same(
    scored: tuple[DatasetRoot, Path], tmp_path: Path
) -> None:
    root, truth = scored
    plain = both((root, truth), predicted(), tmp_path)[1]
    content = json.loads(truth.read_text())
    for truths in content["annotations"].values():
        for cameras in truths["masks"].values():
            for camera, frames in cameras.items():
                cameras[camera] = {f"{int(idx):05d}": mask for idx, mask in frames.items()}
        for cameras in truths["annotated_frames"].values():
            for camera, idxs in cameras.items():
                cameras[camera] = [f"{idx:05d}" for idx in idxs]
    padded = tmp_path / "padded.json"
    padded.write_text("\ufeff" + json.dumps(content))
    again = both((root, padded), predicted(), tmp_path)[1]
    assert plain[0] == again[0] == 0
    assert plain[1].splitlines()[2:] == again[1].splitlines()[2:]


# Errors that nobody foresaw


def groups() -> list[tuple[click.Group, str]]:
    from omama.cli import main as omama

    return [(main, name) for name in COMMANDS] + [(omama, name) for name in omama.table]


@pytest.mark.parametrize("number", range(len(groups())))
@pytest.mark.parametrize("debug", [False, True])
def test_no_command_ends_in_a_bare_trace(
    number: int, debug: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    group, name = groups()[number]
    command = group.get_command(click.Context(group), name)
    assert command is not None

    def fail(*args: Any, **options: Any) -> None:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr(command, "invoke", fail)
    monkeypatch.setattr(command, "parse_args", lambda context, words: [])
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv(DEBUG, "")
    result = CliRunner().invoke(group, [*(["--debug"] if debug else []), name])
    assert result.exit_code == 1
    if debug:
        assert isinstance(result.exception, ZeroDivisionError)
        return
    (trace,) = tmp_path.glob("*.txt")
    assert f"{name} failed because of an error in the toolkit" in result.output
    assert str(trace) in result.output and "report it" in result.output
    assert "Traceback" not in result.output and "in fail" in trace.read_text()
