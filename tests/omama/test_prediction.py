"""Predictions of a split and of one pair of pictures, and what is refused."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
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
from omama.checkpoint import load_checkpoint, save_checkpoint
from omama.commands.predict import command
from omama.config import Features
from omama.dataset import Dataset
from omama.features.backbones import BACKBONES, Backbone, build_backbone
from omama.features.images import PreparationConfig, prepare_image
from omama.matching.config import MatchingOptions, ModelConfig, TrainConfig
from omama.matching.matchers import load_matcher
from omama.matching.model import OMama
from omama.matching.model_files import save_official
from omama.matching.predict_pair import predict_pair, read_mask
from omama.matching.train import train
from omama.tables.loading import load_dataset
from omama.writing import predict_run

TEST_TAKE = list(TAKES)[3]
LIVE = Features("rgb_grid", cached=False)


@pytest.fixture(scope="module")
def checkpoint(featured_root: DatasetRoot) -> Path:
    return train(
        featured_root,
        Direction.EGO2EXO,
        TrainConfig(epochs=4, batch_pairs=4, width=16, learning_rate=3e-3),
        RunFolder.of(featured_root, "trained"),
        options=MatchingOptions(features=Features("rgb_grid"), quiet=True),
    )


def predict(root: DatasetRoot, direction: Direction = Direction.EGO2EXO, **options: Any) -> Path:
    method = options.pop("matcher", "o-mama")
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


def rows(path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pq.read_table(path.with_suffix(".parquet")).to_pylist()
    return found


def mean_iou(root: DatasetRoot, path: Path) -> float:
    """Over visible test pairs, at the size of the predictions."""
    masks = {
        (row["camera"], row["frame_idx"], row["object_name"]): row
        for row in read_manifest(root, "masks", units=[TEST_TAKE]).to_pylist()
    }
    ious = []
    for row in rows(path):
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
    path = predict(featured_root, direction, matcher="oracle", size="image")
    assert mean_iou(featured_root, path) == 1.0
    states = read_manifest(featured_root, "pairs", units=[f"test.{direction}"]).to_pylist()
    visible = {row["pair_id"]: row["dest_state"] == "visible" for row in states}
    assert {row["pair_id"]: row["confidence"] > 0.5 for row in rows(path)} == visible


def test_colours_are_enough_for_training_and_for_nearest_neighbours(
    featured_root: DatasetRoot, checkpoint: Path
) -> None:
    for options in ({"checkpoint": checkpoint}, {"matcher": "knn"}):
        assert mean_iou(featured_root, predict(featured_root, **options)) > 0.9
    assert mean_iou(featured_root, predict(featured_root, matcher="random")) < 0.5


def test_live_and_cached_predictions_are_the_same(
    featured_root: DatasetRoot, checkpoint: Path
) -> None:
    cached = rows(predict(featured_root, checkpoint=checkpoint))
    live = rows(predict(featured_root, checkpoint=checkpoint, features=LIVE))
    assert [row["rle_counts"] for row in live] == [row["rle_counts"] for row in cached]
    for one, two in zip(live, cached, strict=True):
        assert one["similarity"] == pytest.approx(two["similarity"], abs=1e-3)
        assert one["confidence"] == pytest.approx(two["confidence"], abs=2e-3)


@pytest.mark.parametrize(("size", "expected"), [("official", [300, 480]), ("image", [140, 224])])
def test_a_prediction_is_the_chosen_proposal(
    featured_root: DatasetRoot, checkpoint: Path, size: str, expected: list[int]
) -> None:
    proposals = {
        (row["camera"], row["frame_idx"], row["proposal_idx"]): row
        for row in read_manifest(featured_root, "proposals").to_pylist()
        if row["take_uid"] == TEST_TAKE
    }
    found = rows(predict(featured_root, checkpoint=checkpoint, size=size))
    assert found == sorted(found, key=lambda row: row["pair_id"])
    for row in found:
        _, cameras, frame_idx, _ = row["pair_id"].split("/", 3)
        key = (cameras.split(">")[1], int(frame_idx))
        chosen = proposals[(*key, row["proposal_idx"])]
        rle = MaskRle(chosen["rle_height"], chosen["rle_width"], chosen["rle_counts"])
        assert row["rle_counts"] == MaskRle.encode(rle.decode_at(*expected)).counts
        assert [row["rle_height"], row["rle_width"]] == expected
        assert row["top_proposal_idxs"][0] == row["proposal_idx"]
        offered = sum(found[:2] == key for found in proposals)
        assert len(set(row["top_proposal_idxs"])) == len(row["top_proposal_idxs"])
        assert len(row["top_proposal_idxs"]) == min(5, offered)


@pytest.mark.parametrize(("size", "expected"), [("official", [300, 480]), ("image", [140, 224])])
def test_the_official_file(featured_root: DatasetRoot, size: str, expected: list[int]) -> None:
    path = predict(featured_root, matcher="knn", size=size)
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
    absent = [row for row in rows(path) if "/30/" in row["pair_id"]]
    assert len(absent) == 2 and len(rows(path)) == 7
    for row in absent:
        assert (row["proposal_idx"], row["similarity"], row["confidence"]) == (None, None, 0.0)
        assert MaskRle(300, 480, row["rle_counts"]).area() == 0
    assert "2 of 7 pairs have no proposals: predicted absent" in caplog.text
    metadata = pq.read_schema(path.with_suffix(".parquet")).metadata
    assert metadata[b"pairs_without_proposals"] == b"2"


@pytest.mark.parametrize("matcher", ["knn", "oracle", "random", None])
def test_a_frame_with_nothing_in_it_at_all(
    own_root: DatasetRoot, checkpoint: Path, matcher: str | None
) -> None:
    unit = f"{TEST_TAKE}.cam01"
    proposals = read_manifest(own_root, "proposals", units=[unit]).to_pylist()
    write_manifest(own_root, "proposals", unit, [r for r in proposals if r["frame_idx"] != 30])
    masks = read_manifest(own_root, "masks", units=[TEST_TAKE]).to_pylist()
    gone = [key for key in masks[0] if key.startswith("rle_") or key in ("area", "bbox_xywh")]
    for row in masks:
        if (row["camera"], row["frame_idx"]) == ("cam01", 30):
            row |= {"visible": False, **dict.fromkeys(gone)}
    write_manifest(own_root, "masks", TEST_TAKE, masks)
    how = {"matcher": matcher} if matcher else {"checkpoint": checkpoint}
    path = predict(own_root, features=LIVE, batch_pairs=1, **how)
    absent = [row for row in rows(path) if "/30/" in row["pair_id"]]
    # The pair whose mask is gone is left out; the other's object was absent all along.
    assert len(absent) == 1 and len(rows(path)) == 6
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
    found = {row["pair_id"]: row for row in rows(own_root.runs / "ego2exo" / "predictions.json")}
    for pair, pair_id in enumerate(data.pairs.ids[:3]):
        expected = plain_prediction(official, backbone, data, pair)
        row = found[pair_id]
        assert row["proposal_idx"] == expected.argmax()
        assert row["similarity"] == pytest.approx(expected.max(), abs=1e-4)
        assert row["confidence"] == pytest.approx(1 / (1 + np.exp(-expected.max())), abs=1e-4)


def plain_prediction(model: OMama, backbone: Backbone, data: Dataset, pair: int) -> Any:
    """Similarities (N,) of one pair, one mask at a time, as the published code computes them."""
    pairs, frames = data.pairs, data.frames

    def described(frame: int, rles: list[MaskRle]) -> tuple[Any, Any]:
        image = prepare_image(read_image(frames.path(frame)), PreparationConfig())
        tokens = backbone(image[None])[0]
        masks = np.stack([rle.decode_at(*image.shape[1:]) for rle in rles])
        boxes = [reference.mask_box_xywh(mask) for mask in masks]
        grown = [reference.plain_context_box(box, *image.shape[1:]) for box in boxes]
        found = reference.plain_descriptors(tokens, torch.from_numpy(masks), np.array(grown))
        return found.numpy(), tokens.numpy()

    source, dest = int(pairs.source_frame[pair]), int(pairs.dest_frame[pair])
    asked, source_tokens = described(source, [frames.masks.rle(int(pairs.source_mask[pair]))])
    candidates, dest_tokens = described(dest, frames.proposals.of_frame(dest).rles())
    state = {key: value.numpy() for key, value in model.state_dict().items()}
    for key, view in (("pos_embed_T", dest_tokens), ("pos_embed_Q", source_tokens)):
        grid = (38, 68) if key == "pos_embed_T" else (50, 50)
        known = torch.from_numpy(state[key]).unflatten(1, grid).permute(0, 3, 1, 2)
        resized = torch.nn.functional.interpolate(known, size=view.shape[1:], mode="bilinear")
        state[key] = resized.flatten(2).transpose(1, 2).numpy()
    return reference.plain_similarity(state, asked[0], candidates, source_tokens, dest_tokens)


def test_reference_behaviour_reaches_the_authors_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A portrait frame's positions in flat order give other similarities than turned ones."""
    monkeypatch.setattr("omama.matching.matchers.model_matcher", lambda model, **settings: model)
    torch.manual_seed(0)
    model = OMama(ModelConfig.official(Direction.EGO2EXO))
    model.pos_embed_T.data *= 50  # as strong as the tokens
    path = tmp_path / "official.pt"
    save_official(model, path)
    tokens, descriptors = torch.randn(1, 768, 68, 38), torch.randn(1, 1, 1536)
    embeddings = []
    for reference_behaviour in (False, True):
        options = MatchingOptions(reference_behaviour=reference_behaviour)
        loaded: Any = load_matcher(path, None, direction=None, options=options).matcher
        embeddings.append(loaded.embed_sources(descriptors, tokens))
    assert (embeddings[0] - embeddings[1]).abs().max() > 1e-3
    flat = model.embed_sources(descriptors, tokens.flatten(2).unflatten(2, (38, 68)))
    assert torch.allclose(embeddings[1], flat, atol=1e-5)


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


def test_other_weights_of_the_backbone_are_refused(
    featured_root: DatasetRoot, checkpoint: Path, tmp_path: Path
) -> None:
    saved = load_checkpoint(checkpoint)
    other = {**saved.features, "weights_hash": "0123456789abcdef"}
    save_checkpoint(replace(saved, features=other), tmp_path / "other.pt")
    with pytest.raises(DataError, match=r"trained on other weights of rgb_grid \(0123456789abcdef"):
        predict(featured_root, checkpoint=tmp_path / "other.pt")
    with pytest.raises(SettingsError, match="precision 'fp8'; use fp32 or bf16"):
        predict(featured_root, checkpoint=checkpoint, model_precision="fp8")


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
        predict(featured_root, matcher="best")
    with pytest.raises(SettingsError, match="size='448'; use official or image"):
        predict(featured_root, matcher="knn", size="448")
    with pytest.raises(DataError, match="there is no checkpoint"):
        predict(featured_root, checkpoint=Path("nowhere.pt"))


def read(root: DatasetRoot, camera: str) -> Any:
    return cv2.imread(str(root.frame(TEST_TAKE, camera, 0)))[..., ::-1].copy()


def test_one_pair_of_pictures(featured_root: DatasetRoot, checkpoint: Path) -> None:
    source, dest = read(featured_root, EGO), read(featured_root, "cam01")
    red = MaskRle.encode((source[..., 0] > 150) & (source[..., 1] < 90))
    squares = [(20, 150, 26), (10, 48, 26), (50, 48, 26)]
    proposals = []
    for y, x, side in squares:
        mask = np.zeros(dest.shape[:2], np.bool_)
        mask[y : y + side, x : x + side] = True
        proposals.append(MaskRle.encode(mask))
    found = predict_pair(source, red, dest, proposals, checkpoint=checkpoint)
    assert (found.proposal_idx, found.rle) == (1, proposals[1])
    nothing = predict_pair(source, red, dest, [], checkpoint=checkpoint)
    assert (nothing.rle, nothing.confidence) == (None, 0.0)
    with pytest.raises(DataError, match="the mask is empty"):
        predict_pair(
            source,
            MaskRle.encode(np.zeros((140, 140))),
            dest,
            proposals,
            baseline="knn",
            options=MatchingOptions(features=Features("rgb_grid")),
        )
    with pytest.raises(DataError, match="mask has 30x20 pixels, its picture 140x140"):
        predict_pair(
            source, MaskRle.encode(np.ones((20, 30))), dest, proposals, checkpoint=checkpoint
        )


def test_the_command_draws_an_overlay(
    featured_root: DatasetRoot, checkpoint: Path, tmp_path: Path
) -> None:
    source = read(featured_root, EGO)
    mask = ((source[..., 0] > 150) & (source[..., 1] < 90)).astype(np.uint8)
    cv2.imwrite(str(tmp_path / "cup.png"), mask * 255)
    (tmp_path / "cup.json").write_text(json.dumps(MaskRle.encode(mask).to_json()))
    assert read_mask(tmp_path / "cup.png") == read_mask(tmp_path / "cup.json")
    arguments = [
        "--source-image", str(featured_root.frame(TEST_TAKE, EGO, 0)),
        "--source-mask", str(tmp_path / "cup.png"),
        "--dest-image", str(featured_root.frame(TEST_TAKE, "cam01", 0)),
        "--checkpoint", str(checkpoint),
        "-o", str(tmp_path / "overlay.png"),
    ]  # fmt: skip
    result = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert result.exit_code == 0 and "confidence" in result.output
    picture = cv2.imread(str(tmp_path / "overlay.png"))
    assert picture.shape[1] > picture.shape[0]
    with pytest.raises(SettingsError, match="--dest-image, --output missing"):
        CliRunner().invoke(command, arguments[:4], catch_exceptions=False)
