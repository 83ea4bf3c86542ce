"""Predictions of a split by O-MaMa and its baselines, and what is refused."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import reference
import timm
import torch
from click.testing import CliRunner
from tiny_root import EGO, TAKES

from egoexo_tools.errors import DataError, SettingsError
from egoexo_tools.layout import DatasetRoot
from egoexo_tools.manifests import read_manifest, write_manifest
from egoexo_tools.masks.rle import MaskRle
from egoexo_tools.runs import RunFolder
from egoexo_tools.video.pictures import read_image
from egoexo_tools.vocab import Direction, Split
from omama.commands.predict import command
from omama.config import Features
from omama.dataset import Dataset
from omama.features.backbones import BACKBONES, Backbone, build_backbone
from omama.features.images import PreparationConfig, prepare_image
from omama.matching.config import MatchingOptions, ModelConfig, TrainConfig
from omama.matching.model import OMama
from omama.matching.model_files import save_official
from omama.matching.train import train
from omama.tables.loading import load_dataset
from omama.writing import predict_run

TEST_TAKE = list(TAKES)[3]
LIVE = Features("rgb_grid", cached=False)


def predict(root: DatasetRoot, direction: Direction = Direction.EGO2EXO, **options: Any) -> Path:
    method = options.pop("method", "o-mama")
    checkpoint = options.pop("checkpoint", None)
    choices = {"quiet": True, "features": Features("rgb_grid"), **options}
    return predict_run(
        method,
        root,
        direction,
        Split.TEST,
        RunFolder.of(root, "run"),
        checkpoint=checkpoint,
        options=MatchingOptions(**choices),
    )


def read_rows(path: Path) -> list[dict[str, Any]]:
    table = pq.read_table(path.with_suffix(".parquet"))
    return [dict(row) for row in table.to_pylist()]


def mean_iou(root: DatasetRoot, path: Path) -> float:
    """Over visible test pairs, at the size of the predictions."""
    masks = {
        (row["camera"], row["frame_idx"], row["object_name"]): row
        for row in read_manifest(root, "masks", units=[TEST_TAKE]).to_pylist()
    }
    ious = []
    for row in read_rows(path):
        _, cameras, frame_idx, name = row["pair_id"].split("/", 3)
        truth = masks.get((cameras.split(">")[1], int(frame_idx), name))
        if truth is None or not truth["visible"]:
            continue
        rle = MaskRle(truth["rle_height"], truth["rle_width"], truth["rle_counts"])
        size = (row["rle_height"], row["rle_width"])
        resized = MaskRle.encode(rle.decode_at(*size))
        ious.append(resized.iou(MaskRle(*size, row["rle_counts"])))
    return float(np.mean(ious))


@pytest.mark.parametrize("direction", list(Direction))
def test_the_oracle_is_perfect_where_every_object_is_proposed(
    featured_root: DatasetRoot, direction: Direction
) -> None:
    path = predict(featured_root, direction, method="oracle", size="image")
    assert mean_iou(featured_root, path) == 1.0
    states = read_manifest(featured_root, "pairs", units=[f"test.{direction}"]).to_pylist()
    visible = {row["pair_id"]: row["dest_state"] == "visible" for row in states}
    assert {row["pair_id"]: row["confidence"] > 0.5 for row in read_rows(path)} == visible


def test_colours_are_enough_for_training_and_for_nearest_neighbours(
    featured_root: DatasetRoot, checkpoint: Path
) -> None:
    for options in ({"checkpoint": checkpoint}, {"method": "knn"}):
        assert mean_iou(featured_root, predict(featured_root, **options)) > 0.9
    assert mean_iou(featured_root, predict(featured_root, method="random")) < 0.5


def test_live_and_cached_predictions_are_the_same(
    featured_root: DatasetRoot, checkpoint: Path
) -> None:
    cached = read_rows(predict(featured_root, checkpoint=checkpoint))
    live = read_rows(predict(featured_root, checkpoint=checkpoint, features=LIVE))
    assert [row["rle_counts"] for row in live] == [row["rle_counts"] for row in cached]
    for live_row, cached_row in zip(live, cached, strict=True):
        assert live_row["similarity"] == pytest.approx(cached_row["similarity"], abs=1e-3)
        assert live_row["confidence"] == pytest.approx(cached_row["confidence"], abs=2e-3)


@pytest.mark.parametrize(("size", "expected"), [("official", [300, 480]), ("image", [140, 224])])
def test_a_prediction_is_the_chosen_proposal(
    featured_root: DatasetRoot, checkpoint: Path, size: str, expected: list[int]
) -> None:
    proposals = {
        (row["camera"], row["frame_idx"], row["proposal_idx"]): row
        for row in read_manifest(featured_root, "proposals").to_pylist()
        if row["take_uid"] == TEST_TAKE
    }
    predictions = read_rows(predict(featured_root, checkpoint=checkpoint, size=size))
    assert predictions == sorted(predictions, key=lambda row: row["pair_id"])
    for row in predictions:
        _, cameras, frame_idx, _ = row["pair_id"].split("/", 3)
        key = (cameras.split(">")[1], int(frame_idx))
        proposal = proposals[(*key, row["proposal_idx"])]
        rle = MaskRle(proposal["rle_height"], proposal["rle_width"], proposal["rle_counts"])
        assert row["rle_counts"] == MaskRle.encode(rle.decode_at(*expected)).counts
        assert [row["rle_height"], row["rle_width"]] == expected
        assert row["top_proposal_idxs"][0] == row["proposal_idx"]
        count = sum(other[:2] == key for other in proposals)
        assert len(set(row["top_proposal_idxs"])) == len(row["top_proposal_idxs"]) == min(5, count)


@pytest.mark.parametrize(("size", "expected"), [("official", [300, 480]), ("image", [140, 224])])
def test_the_official_file(featured_root: DatasetRoot, size: str, expected: list[int]) -> None:
    path = predict(featured_root, method="knn", size=size)
    value = json.loads(path.read_bytes())["ego-exo"]
    assert (value["version"], value["challenge"]) == ("xx", "xx")
    take = value["results"][TEST_TAKE]
    assert take["subsample_idx"] == [0, 30, 60, 90]
    assert set(take["masks"]) == {"red cup", "green box/lid"}
    entry = take["masks"]["green box/lid"][f"{EGO}_cam01"]["30"]
    assert entry["pred_mask"]["size"] == expected
    assert 0.0 <= entry["confidence"] <= 1.0
    metadata = pq.read_schema(path.with_suffix(".parquet")).metadata
    assert metadata[b"size"] == size.encode() and metadata[b"matcher"] == b"knn"


def test_a_frame_without_proposals_is_predicted_absent(
    own_root: DatasetRoot, checkpoint: Path, caplog: pytest.LogCaptureFixture
) -> None:
    unit = f"{TEST_TAKE}.cam01"
    proposals = read_manifest(own_root, "proposals", units=[unit]).to_pylist()
    write_manifest(own_root, "proposals", unit, [r for r in proposals if r["frame_idx"] != 30])
    path = predict(own_root, checkpoint=checkpoint, features=LIVE)
    absent = [row for row in read_rows(path) if "/30/" in row["pair_id"]]
    assert len(absent) == 2 and len(read_rows(path)) == 7
    for row in absent:
        assert (row["proposal_idx"], row["similarity"], row["confidence"]) == (None, None, 0.0)
        assert MaskRle(300, 480, row["rle_counts"]).area() == 0
    assert "2 of 7 pairs have no proposals: predicted absent" in caplog.text
    metadata = pq.read_schema(path.with_suffix(".parquet")).metadata
    assert metadata[b"pairs_without_proposals"] == b"2"


@pytest.mark.parametrize("method", ["knn", "oracle", "random", None])
def test_a_frame_with_nothing_in_it_at_all(
    own_root: DatasetRoot, checkpoint: Path, method: str | None
) -> None:
    unit = f"{TEST_TAKE}.cam01"
    proposals = read_manifest(own_root, "proposals", units=[unit]).to_pylist()
    write_manifest(own_root, "proposals", unit, [r for r in proposals if r["frame_idx"] != 30])
    masks = read_manifest(own_root, "masks", units=[TEST_TAKE]).to_pylist()
    mask_columns = [
        key for key in masks[0] if key.startswith("rle_") or key in ("area", "bbox_xywh")
    ]
    for row in masks:
        if (row["camera"], row["frame_idx"]) == ("cam01", 30):
            row |= {"visible": False, **dict.fromkeys(mask_columns)}
    write_manifest(own_root, "masks", TEST_TAKE, masks)
    options = {"method": method} if method else {"checkpoint": checkpoint}
    path = predict(own_root, features=LIVE, batch_pairs=1, **options)
    absent = [row for row in read_rows(path) if "/30/" in row["pair_id"]]
    # The pair whose mask is gone is left out; the other's object was absent all along.
    assert len(absent) == 1 and len(read_rows(path)) == 6
    assert (absent[0]["proposal_idx"], absent[0]["confidence"]) == (None, 0.0)


def test_the_authors_checkpoint_predicts_as_their_code_does(
    own_root: DatasetRoot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both files in the authors' formats, all the way; one block of DINOv2 instead of twelve."""
    shallow = {"depth": 1, "img_size": 518}
    monkeypatch.setitem(BACKBONES, "dinov2", partial(BACKBONES["dinov2"], **shallow))
    network = timm.create_model("vit_base_patch14_reg4_dinov2", num_classes=0, **shallow)
    torch.save(network.state_dict(), tmp_path / "dinov2.pth")
    torch.manual_seed(0)
    official = OMama(ModelConfig.official(Direction.EGO2EXO, visibility_head=False))
    save_official(official, tmp_path / "official.pt")
    checkpoint, weights = tmp_path / "official.pt", tmp_path / "dinov2.pth"
    with pytest.raises(DataError, match="was trained on dinov2 .* not on rgb_grid; give --backb"):
        predict(own_root, checkpoint=checkpoint)
    arguments = [
        str(own_root.path), "--direction", "ego2exo", "--split", "test", "--on-the-fly",
        "--checkpoint", str(checkpoint), "--weights", str(weights), "--quiet",
    ]  # fmt: skip
    result = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert result.exit_code == 0 and "predictions.json" in result.output
    backbone = build_backbone("dinov2", weights)
    data = load_dataset(own_root, split=Split.TEST, direction=Direction.EGO2EXO)
    rows = read_rows(own_root.runs / "ego2exo" / "predictions.json")
    row_of = {row["pair_id"]: row for row in rows}
    for pair, pair_id in enumerate(data.pairs.ids[:3]):
        expected = plain_prediction(official, backbone, data, pair)
        row = row_of[pair_id]
        assert row["proposal_idx"] == expected.argmax()
        assert row["similarity"] == pytest.approx(expected.max(), abs=1e-4)
        assert row["confidence"] == pytest.approx(1 / (1 + np.exp(-expected.max())), abs=1e-4)


def plain_prediction(model: OMama, backbone: Backbone, data: Dataset, pair: int) -> Any:
    """Similarities (N,) of one pair, one mask at a time, as the published code computes them."""
    pairs, frames = data.pairs, data.frames

    def describe(frame: int, rles: list[MaskRle]) -> tuple[Any, Any]:
        image = prepare_image(read_image(frames.path(frame)), PreparationConfig())
        tokens = backbone(image[None])[0]
        masks = np.stack([rle.decode_at(*image.shape[1:]) for rle in rles])
        boxes = [reference.mask_box_xywh(mask) for mask in masks]
        contexts = np.array([reference.plain_context_box(b, *image.shape[1:]) for b in boxes])
        descriptors = reference.plain_descriptors(tokens, torch.from_numpy(masks), contexts)
        return descriptors.numpy(), tokens.numpy()

    source, dest = int(pairs.source_frame[pair]), int(pairs.dest_frame[pair])
    sources, source_tokens = describe(source, [frames.masks.rle(int(pairs.source_mask[pair]))])
    candidates, dest_tokens = describe(dest, frames.proposals.of_frame(dest).rles())
    state = {key: value.numpy() for key, value in model.state_dict().items()}
    for key, view in (("pos_embed_T", dest_tokens), ("pos_embed_Q", source_tokens)):
        grid = (38, 68) if key == "pos_embed_T" else (50, 50)
        positions = torch.from_numpy(state[key]).unflatten(1, grid).permute(0, 3, 1, 2)
        resized = torch.nn.functional.interpolate(positions, size=view.shape[1:], mode="bilinear")
        state[key] = resized.flatten(2).transpose(1, 2).numpy()
    return reference.plain_similarity(state, sources[0], candidates, source_tokens, dest_tokens)


def test_a_gpu_without_memory_says_which_batch_to_try(
    featured_root: DatasetRoot, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*inputs: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(OMama, "embed", full)
    with pytest.raises(DataError, match="with 64 pairs a batch; try --batch-pairs 32"):
        predict(featured_root, checkpoint=checkpoint)
    config = TrainConfig(width=16, batch_pairs=10)
    with pytest.raises(DataError, match="with 10 pairs a batch; try --batch-pairs 5"):
        train(
            featured_root,
            Direction.EGO2EXO,
            config,
            RunFolder.of(featured_root, "full"),
            options=MatchingOptions(features=Features("rgb_grid"), quiet=True),
        )


def test_wrong_directions_and_choices_are_refused(
    featured_root: DatasetRoot, checkpoint: Path
) -> None:
    with pytest.raises(DataError, match="was trained for ego2exo, not exo2ego"):
        predict(featured_root, Direction.EXO2EGO, checkpoint=checkpoint)
    with pytest.raises(SettingsError, match="o-mama predicts with a checkpoint"):
        predict(featured_root)
    with pytest.raises(
        SettingsError, match="'best' is not a method; use o-mama, knn, oracle, rand"
    ):
        predict(featured_root, method="best")
    with pytest.raises(SettingsError, match="size='448'; use official or image"):
        predict(featured_root, method="knn", size="448")
    with pytest.raises(SettingsError, match="precision 'fp8'; use fp32 or bf16"):
        predict(featured_root, checkpoint=checkpoint, model_precision="fp8")
    with pytest.raises(DataError, match="the checkpoint .* does not exist"):
        predict(featured_root, checkpoint=Path("nowhere.pt"))
