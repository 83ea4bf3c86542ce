"""LM-EEC over a root: takes followed, each picture encoded once, predictions as any method's."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from click.testing import CliRunner  # noqa: E402
from lm_eec_networks import SMALL, small_network  # noqa: E402
from tiny_root import EGO, make_tiny_root  # noqa: E402

from egoexo_tools.errors import DataError, SettingsError  # noqa: E402
from egoexo_tools.layout import DatasetRoot  # noqa: E402
from egoexo_tools.manifests import read_manifest, write_manifest  # noqa: E402
from egoexo_tools.masks.rle import MaskRle  # noqa: E402
from egoexo_tools.runs import RunFolder  # noqa: E402
from egoexo_tools.vocab import Direction, Split  # noqa: E402
from omama.checkpoint import Checkpoint, save_checkpoint  # noqa: E402
from omama.commands.predict import command as predict_command  # noqa: E402
from omama.features.images import normalise  # noqa: E402
from omama.lm_eec.bank import DEFAULT, REFERENCE  # noqa: E402
from omama.lm_eec.pictures import read_squashed, squash_mask  # noqa: E402
from omama.lm_eec.predict import predict, predict_directions  # noqa: E402
from omama.lm_eec.settings import LmEecOptions  # noqa: E402
from omama.lm_eec.take_tracking import TrackingSettings, track_objects  # noqa: E402
from omama.lm_eec.tracks import load_tracks  # noqa: E402
from omama.lm_eec.weights import METHOD  # noqa: E402
from omama.writing import predict_run  # noqa: E402

sys.path.append(str(Path(__file__).parents[3] / "scripts"))
from plain_lm_eec import plain_track  # noqa: E402

FIRST = "11111111-0000-4000-8000-000000000001"
QUIET = LmEecOptions(quiet=True)
HOW = TrackingSettings(DEFAULT, torch.device("cpu"), False, 32)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> DatasetRoot:
    return make_tiny_root(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "small.pt"
    weights = small_network().state_dict()
    save_checkpoint(Checkpoint(SMALL.to_dict(), weights, method=METHOD), path)
    return path


@pytest.fixture
def passes(monkeypatch) -> list[int]:
    """Pictures of each pass of the encoder."""
    counted: list[int] = []
    network = type(small_network())
    encode = network.encode_images

    def count(self, images):
        counted.append(len(images))
        return encode(self, images)

    monkeypatch.setattr(network, "encode_images", count)
    return counted


def both_directions(root):
    (take, *_) = load_tracks(root, Split.TRAIN, tuple(Direction))
    return take


@pytest.mark.slow
@pytest.mark.parametrize(("rules", "batch"), [(DEFAULT, 32), (DEFAULT, 2), (REFERENCE, 32)])
def test_a_take_is_followed_as_each_object_alone(root, passes, rules, batch):
    """Two objects, three cameras, both directions; and no picture goes through twice."""
    take = both_directions(root)
    assert len(take.tracks) == 6
    found = {}
    for part in track_objects(small_network(), take, replace(HOW, rules=rules, batch=batch)):
        for row, key in enumerate(zip(part.tracks, part.places, strict=True)):
            found[key] = part.low_res_logits[row]
    assert sum(passes) == len({f for t in take.tracks for f in t.source_frames} | {
        f for t in take.tracks for f in t.dest_frames
    }) == 12  # fmt: skip
    expected = {}
    for number, track in enumerate(take.tracks):
        answers = plain_track(small_network(), *tensors(take, track), reference=rules is REFERENCE)
        expected |= {(number, place): one.low_res_logits[0] for place, one in answers.items()}
    assert found.keys() == expected.keys()
    for key, drawn in found.items():
        torch.testing.assert_close(drawn, expected[key], rtol=0, atol=2e-5)


def tensors(take, track):
    pictures = [
        normalise(
            torch.from_numpy(np.stack([read_squashed(take.frames.path(f), 64) for f in frames]))
        )
        for frames in (track.source_frames, track.dest_frames)
    ]
    masks = [
        squash_mask(take.frames.masks.rle(row), 64) if row >= 0 else np.zeros((64, 64), np.bool_)
        for row in track.source_masks
    ]
    with torch.no_grad():
        return *pictures, torch.from_numpy(np.stack(masks)).float()


@pytest.mark.slow
def test_both_directions_by_one_checkpoint_encode_a_picture_once(root, checkpoint, passes):
    options = replace(QUIET, reference_behaviour=True)
    whole = predict_directions(root, tuple(Direction), Split.TRAIN, checkpoint, options=options)
    together = {}
    for direction, table in whole:
        together.setdefault(direction, []).append(table)
    assert sum(passes) == 12 + 8
    for direction, tables in together.items():
        alone = list(predict(root, direction, Split.TRAIN, checkpoint, options=options))
        assert pa.concat_tables(tables).equals(pa.concat_tables(alone))


@pytest.mark.slow
@pytest.mark.parametrize("reference", [True, False])
def test_every_pair_is_predicted_at_the_official_size(root, checkpoint, reference):
    options = replace(QUIET, reference_behaviour=reference)
    table = pa.concat_tables(
        predict(root, Direction.EGO2EXO, Split.TRAIN, checkpoint, options=options)
    )
    pairs = read_manifest(root, "pairs", units=["train.ego2exo"])
    assert sorted(table["pair_id"].to_pylist()) == sorted(pairs["pair_id"].to_pylist())
    assert set(zip(table["rle_height"].to_pylist(), table["rle_width"].to_pylist(), strict=True)) \
        == {(300, 480)}  # fmt: skip
    assert table["proposal_idx"].null_count == len(table)
    for row in table.to_pylist():
        MaskRle(row["rle_height"], row["rle_width"], row["rle_counts"]).validate()
    if reference:
        # The exo view was never annotated at frame 90: it is in no list, so absent.
        (late,) = [
            row
            for row in table.to_pylist()
            if row["pair_id"] == f"{FIRST}/{EGO}>cam01/90/green box/lid"
        ]
        assert late["confidence"] == 0


@pytest.mark.slow
def test_a_sample_of_pairs_is_followed_through_all_frames(root, checkpoint, tmp_path):
    """What is remembered is the object's, not the sample's."""
    sampled = make_tiny_root(tmp_path / "sampled")
    pairs = read_manifest(sampled, "pairs", units=["test.ego2exo"])
    write_manifest(sampled, "pairs", "test.ego2exo", pairs.slice(2, 2))
    options = replace(QUIET, reference_behaviour=True)
    every, some = (
        {
            row["pair_id"]: row
            for table in predict(r, Direction.EGO2EXO, Split.TEST, checkpoint, options=options)
            for row in table.to_pylist()
        }
        for r in (root, sampled)
    )
    assert some == {key: every[key] for key in pairs["pair_id"].to_pylist()[2:4]}


def test_a_run_is_written_and_stamped(root, checkpoint, tmp_path):
    run = RunFolder(tmp_path / "run")
    predict_run(
        "lm-eec", root, Direction.EXO2EGO, Split.TEST, run, checkpoint=checkpoint, options=QUIET
    )
    metadata = pa.parquet.read_schema(run.predictions).metadata
    assert metadata[b"method"] == b"lm-eec"
    assert metadata[b"size"] == b"official"
    assert run.predictions_json.exists()


@pytest.mark.slow
def test_a_take_without_common_frames_is_left_out_by_name(tmp_path, checkpoint, caplog):
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
def test_a_picture_that_cannot_be_read_is_named(tmp_path, checkpoint):
    broken = make_tiny_root(tmp_path)
    path = broken.frame(FIRST, "cam01", 30)
    path.write_bytes(b"no picture")
    with pytest.raises(DataError, match=re.escape(str(path))):
        list(predict(broken, Direction.EGO2EXO, Split.TRAIN, checkpoint, options=QUIET))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "batch", "says"),
    [
        ("encode_images", 32, "with 32 tracks side by side; try --batch-pairs 16"),
        ("encode_images", 1, "with 1 tracks side by side; wait for the programs that use it"),
        ("to", 32, "no room for the network's"),
    ],
)
def test_a_full_gpu_is_one_sentence(root, checkpoint, monkeypatch, method, batch, says):
    def full(*args):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(type(small_network()), method, full)
    options = replace(QUIET, reference_behaviour=True, batch_pairs=batch)
    with pytest.raises(DataError, match=says) as caught:
        list(predict(root, Direction.EGO2EXO, Split.TEST, checkpoint, options=options))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("size", [(54, 96), (704, 704), (2160, 3840), (40, 64)])
def test_a_mask_is_squashed_as_torch_does_it(size):
    generator = np.random.default_rng(0)
    mask = np.zeros(size, np.bool_)
    top, left = generator.integers(0, size[0] // 2), generator.integers(0, size[1] // 2)
    part = generator.random((size[0] // 8, size[1] // 8)) > 0.5
    part = part.repeat(3, 0).repeat(2, 1)[: size[0] - top, : size[1] - left]
    mask[top : top + part.shape[0], left : left + part.shape[1]] = part
    small = torch.nn.functional.interpolate(
        torch.from_numpy(mask)[None, None].float(), (160, 160), mode="bilinear", antialias=True
    )[0, 0]
    ours = squash_mask(MaskRle.encode(mask), 160)
    sure = (small - 0.5).abs().numpy() > 1e-5
    assert sure.mean() > 0.9
    assert np.array_equal(ours[sure], (small.numpy() >= 0.5)[sure])
    assert not squash_mask(MaskRle.encode(np.zeros(size, np.bool_)), 160).any()


@pytest.mark.slow
def test_both_directions_by_one_command(tmp_path, checkpoint, passes):
    """Each picture is encoded once for both, and each run is what its own command writes."""
    root = make_tiny_root(tmp_path / "root")
    words = [str(root.path), "--split", "test", "--method", "lm-eec", "--checkpoint"]
    words += [str(checkpoint), "--reference-behaviour", "--quiet", "--direction"]
    for direction in Direction:
        assert CliRunner().invoke(predict_command, [*words, str(direction)]).exit_code == 0
    alone = {d: pa.parquet.read_table(usual_run(root, d).predictions) for d in Direction}
    apart = sum(passes)
    passes.clear()
    said = CliRunner().invoke(predict_command, [*words, "both"])
    assert said.exit_code == 0, said.output
    assert 2 * sum(passes) == apart
    for direction, table in alone.items():
        run = usual_run(root, direction)
        again = pa.parquet.read_table(run.predictions)
        assert again.equals(table) and again.schema.metadata == table.schema.metadata
        assert str(run.predictions_json) in said.output


def usual_run(root, direction):
    return RunFolder.of(root, f"{direction}-lm-eec")


@pytest.mark.parametrize("more", [["--run-name", "mine"], ["-o", "out.json"]])
def test_both_directions_need_a_run_each(root, checkpoint, more):
    words = [str(root.path), "--split", "test", "--method", "lm-eec", "--direction", "both"]
    said = CliRunner().invoke(predict_command, [*words, "--checkpoint", str(checkpoint), *more])
    assert isinstance(said.exception, SettingsError)
    assert str(said.exception).startswith("--direction both writes two runs, --")


def test_a_checkpoint_is_asked_for(root):
    words = [str(root.path), "--split", "test", "--method", "lm-eec", "--direction", "ego2exo"]
    said = CliRunner().invoke(predict_command, words)
    assert str(said.exception) == (
        "lm-eec predicts with a checkpoint: give --checkpoint, or a --method without one "
        "(knn, oracle, random)"
    )
