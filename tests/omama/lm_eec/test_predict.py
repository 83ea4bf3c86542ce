"""LM-EEC's predictions of a root."""

import re
from dataclasses import replace

import pyarrow as pa
import pytest
import torch
from click.testing import CliRunner
from lm_eec_networks import small_network
from tiny_root import EGO, make_tiny_root, rewrite_digests

from egoexo_tools.errors import DataError, SettingsError
from egoexo_tools.manifests import read_manifest, write_manifest
from egoexo_tools.masks.rle import MaskRle
from egoexo_tools.runs import RunFolder
from egoexo_tools.vocab import Direction, Split
from omama.commands.predict import command as predict_command
from omama.lm_eec.predict import predict, predict_directions
from omama.lm_eec.settings import LmEecOptions
from omama.writing import predict_run

FIRST = "11111111-0000-4000-8000-000000000001"
QUIET = LmEecOptions(quiet=True)


@pytest.mark.slow
def test_both_directions_together_encode_each_picture_once(tiny_root, checkpoint, encoded_pictures):
    options = replace(QUIET, reference_behaviour=True)
    tables = predict_directions(
        tiny_root, tuple(Direction), Split.TRAIN, checkpoint, options=options
    )
    together = {}
    for direction, table in tables:
        together.setdefault(direction, []).append(table)
    assert sum(encoded_pictures) == 12 + 8
    for direction, tables in together.items():
        alone = list(predict(tiny_root, direction, Split.TRAIN, checkpoint, options=options))
        assert pa.concat_tables(tables).equals(pa.concat_tables(alone))


@pytest.mark.slow
@pytest.mark.parametrize("reference", [True, False])
def test_every_pair_is_predicted_at_the_official_size(tiny_root, checkpoint, reference):
    options = replace(QUIET, reference_behaviour=reference)
    table = pa.concat_tables(
        predict(tiny_root, Direction.EGO2EXO, Split.TRAIN, checkpoint, options=options)
    )
    pairs = read_manifest(tiny_root, "pairs", units=["train.ego2exo"])
    assert sorted(table["pair_id"].to_pylist()) == sorted(pairs["pair_id"].to_pylist())
    assert set(zip(table["rle_height"].to_pylist(), table["rle_width"].to_pylist(), strict=True)) \
        == {(300, 480)}  # fmt: skip
    assert table["proposal_idx"].null_count == len(table)
    for row in table.to_pylist():
        MaskRle(row["rle_height"], row["rle_width"], row["rle_counts"]).validate()
    if reference:
        # The exo view is not annotated at frame 90: the frame is in no track, so it is absent.
        (unreached,) = [
            row
            for row in table.to_pylist()
            if row["pair_id"] == f"{FIRST}/{EGO}>cam01/90/green box/lid"
        ]
        assert unreached["confidence"] == 0


@pytest.mark.slow
def test_a_sample_of_pairs_is_predicted_with_all_frames_of_its_tracks(
    tiny_root, checkpoint, tmp_path
):
    sampled = make_tiny_root(tmp_path / "sampled")
    pairs = read_manifest(sampled, "pairs", units=["test.ego2exo"])
    write_manifest(sampled, "pairs", "test.ego2exo", pairs.slice(2, 2))
    options = replace(QUIET, reference_behaviour=True)
    all_rows, sampled_rows = (
        {
            row["pair_id"]: row
            for table in predict(root, Direction.EGO2EXO, Split.TEST, checkpoint, options=options)
            for row in table.to_pylist()
        }
        for root in (tiny_root, sampled)
    )
    assert sampled_rows == {key: all_rows[key] for key in pairs["pair_id"].to_pylist()[2:4]}


def test_a_run_is_written_with_a_stamp(tiny_root, checkpoint, tmp_path):
    run = RunFolder(tmp_path / "run")
    predict_run(
        "lm-eec",
        tiny_root,
        Direction.EXO2EGO,
        Split.TEST,
        run,
        checkpoint=checkpoint,
        options=QUIET,
    )
    metadata = pa.parquet.read_schema(run.predictions).metadata
    assert metadata[b"method"] == b"lm-eec"
    assert metadata[b"size"] == b"official"
    assert run.predictions_json.exists()


@pytest.mark.slow
def test_a_take_without_common_frames_is_left_out_with_a_warning(tmp_path, checkpoint, caplog):
    broken = make_tiny_root(tmp_path)
    unit = f"{FIRST}.{EGO}"
    frames = read_manifest(broken, "frames", units=[unit]).to_pylist()
    write_manifest(
        broken, "frames", unit, [{**row, "frame_idx": 7 + row["frame_idx"]} for row in frames]
    )
    tables = list(predict(broken, Direction.EGO2EXO, Split.TRAIN, checkpoint, options=QUIET))
    assert f"take {FIRST}: the cameras of its 11 pairs have no frame in common" in caplog.text
    predicted = {pair for table in tables for pair in table["pair_id"].to_pylist()}
    assert predicted and not any(pair.startswith(FIRST) for pair in predicted)
    for row in read_manifest(broken, "exclusions").to_pylist():
        assert row["take_uid"] == FIRST


@pytest.mark.slow
def test_an_unreadable_picture_is_named(tmp_path, checkpoint):
    broken = make_tiny_root(tmp_path)
    path = broken.frame(FIRST, "cam01", 30)
    path.write_bytes(b"no picture")
    with pytest.raises(DataError, match="cam01/30.jpg of .* changed or disappeared"):
        list(predict(broken, Direction.EGO2EXO, Split.TRAIN, checkpoint, options=QUIET))
    rewrite_digests(broken, f"{FIRST}.cam01")
    with pytest.raises(DataError, match=re.escape(str(path))):
        list(predict(broken, Direction.EGO2EXO, Split.TRAIN, checkpoint, options=QUIET))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "batch", "message"),
    [
        ("encode_images", 32, "with 32 tracks side by side; try --batch-pairs 16"),
        ("encode_images", 1, "with 1 tracks side by side; wait for the programs that use it"),
        ("to", 32, "no room for the network's"),
    ],
)
def test_a_full_gpu_gives_a_clear_message(
    tiny_root, checkpoint, monkeypatch, method, batch, message
):
    def full(*args):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(type(small_network()), method, full)
    options = replace(QUIET, reference_behaviour=True, batch_pairs=batch)
    with pytest.raises(DataError, match=message) as caught:
        list(predict(tiny_root, Direction.EGO2EXO, Split.TEST, checkpoint, options=options))
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_the_command_predicts_both_directions_together(tmp_path, checkpoint, encoded_pictures):
    """Each picture is encoded once for both, and each run equals that of a single direction."""
    root = make_tiny_root(tmp_path / "root")
    words = [str(root.path), "--split", "test", "--method", "lm-eec", "--checkpoint"]
    words += [str(checkpoint), "--reference-behaviour", "--quiet", "--direction"]
    for direction in Direction:
        assert CliRunner().invoke(predict_command, [*words, str(direction)]).exit_code == 0
    alone = {d: pa.parquet.read_table(usual_run(root, d).predictions) for d in Direction}
    separately = sum(encoded_pictures)
    encoded_pictures.clear()
    result = CliRunner().invoke(predict_command, [*words, "both"])
    assert result.exit_code == 0, result.output
    assert 2 * sum(encoded_pictures) == separately
    for direction, table in alone.items():
        run = usual_run(root, direction)
        again = pa.parquet.read_table(run.predictions)
        assert again.equals(table) and again.schema.metadata == table.schema.metadata
        assert str(run.predictions_json) in result.output


def usual_run(root, direction):
    return RunFolder.of(root, f"{direction}-lm-eec")


@pytest.mark.parametrize("more", [["--run-name", "mine"], ["-o", "out.json"]])
def test_both_directions_need_two_runs(tiny_root, checkpoint, more):
    words = [str(tiny_root.path), "--split", "test", "--method", "lm-eec", "--direction", "both"]
    result = CliRunner().invoke(predict_command, [*words, "--checkpoint", str(checkpoint), *more])
    assert isinstance(result.exception, SettingsError)
    assert str(result.exception).startswith("--direction both writes two runs, --")


def test_the_command_requires_a_checkpoint(tiny_root):
    words = [str(tiny_root.path), "--split", "test", "--method", "lm-eec"]
    words += ["--direction", "ego2exo"]
    result = CliRunner().invoke(predict_command, words)
    assert str(result.exception) == (
        "lm-eec predicts with a checkpoint: give --checkpoint, or a --method without one "
        "(knn, oracle, random)"
    )
