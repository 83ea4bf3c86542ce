"""The FastSAM adapter, on a small network of the same architecture that is trained here.

The network is YOLOv8-seg with narrow layers; it learns to find drawn rectangles, so that its
masks and boxes can be compared with what was drawn.
"""

import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from tiny_root import EGO, make_tiny_root

from egoexo_tools.errors import DataError, SettingsError
from egoexo_tools.manifests import read_manifest
from egoexo_tools.masks.rle import MaskRle
from egoexo_tools.proposers import ProposerOptions, fastsam
from egoexo_tools.running.records import RunOptions
from egoexo_tools.stages.propose import run_propose
from egoexo_tools.vocab import Direction

RUN = RunOptions(quiet=True)
SIDE = 160

pytestmark = pytest.mark.slow


def draw(rng: np.random.Generator, side: int, count: int) -> tuple[Any, list[Any]]:
    """A grey picture with bright rectangles that do not touch, and their masks."""
    rgb = np.full((side, side, 3), 70, np.uint8)
    masks: list[Any] = []
    taken = np.zeros((side, side), bool)
    while len(masks) < count:
        h, w = rng.integers(side // 7, side // 3, 2)
        y, x = rng.integers(2, side - h - 2), rng.integers(2, side - w - 2)
        if taken[max(0, y - 6) : y + h + 6, max(0, x - 6) : x + w + 6].any():
            continue
        taken[y : y + h, x : x + w] = True
        rgb[y : y + h, x : x + w] = rng.integers(140, 256, 3)
        mask = np.zeros((side, side), bool)
        mask[y : y + h, x : x + w] = True
        masks.append(mask)
    noisy = rgb + rng.normal(0, 4, rgb.shape)
    return noisy.clip(0, 255).astype(np.uint8), masks


def batch(rng: np.random.Generator, size: int) -> dict[str, Any]:
    """Training data in the form that ultralytics' loss takes."""
    import torch

    pictures, boxes, of_picture, masks = [], [], [], []
    for number in range(size):
        rgb, drawn = draw(rng, SIDE, int(rng.integers(1, 5)))
        pictures.append(torch.from_numpy(rgb).permute(2, 0, 1).float() / 255)
        numbered = np.zeros((SIDE, SIDE), np.uint8)
        for i, mask in enumerate(drawn, start=1):
            numbered[mask] = i
            rows, columns = np.nonzero(mask)
            y0, y1, x0, x1 = rows.min(), rows.max() + 1, columns.min(), columns.max() + 1
            boxes.append([(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0])
            of_picture.append(number)
        small = cv2.resize(numbered, (SIDE // 4, SIDE // 4), interpolation=cv2.INTER_NEAREST)
        masks.append(torch.from_numpy(small))
    return {
        "img": torch.stack(pictures),
        "bboxes": torch.tensor(np.array(boxes) / SIDE, dtype=torch.float32),
        "batch_idx": torch.tensor(of_picture, dtype=torch.float32),
        "cls": torch.zeros(len(boxes), 1),
        "masks": torch.stack(masks),
    }


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a narrow YOLOv8-seg, trained for some seconds."""
    pytest.importorskip("ultralytics")
    import torch
    from ultralytics.cfg import get_cfg
    from ultralytics.nn.tasks import SegmentationModel, yaml_model_load

    torch.manual_seed(0)
    torch.set_num_threads(1)
    layout = yaml_model_load("yolov8n-seg.yaml")
    layout["scales"] = {"n": [0.33, 0.125, 256]}
    model = SegmentationModel(layout, nc=1, verbose=False)
    model.args = get_cfg()
    rng = np.random.default_rng(0)
    steps = 240
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    model.train()
    for _ in range(steps):
        loss, _ = model(batch(rng, 4))
        optimizer.zero_grad()
        loss.sum().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
        schedule.step()
    path = tmp_path_factory.mktemp("weights") / "FastSAM-tiny.pt"
    model.criterion = None
    torch.save({"model": model.eval(), "train_args": {"task": "segment"}}, path)
    return path


def small_network(weights: Path, **options: Any) -> fastsam.FastSam:
    chosen = fastsam.FastSamOptions(image_size=SIDE, **options)
    return fastsam.load_network(weights, options=chosen, device="cpu")


@pytest.fixture(scope="module")
def pictures() -> list[tuple[Any, list[Any]]]:
    rng = np.random.default_rng(1)
    return [draw(rng, 320, 3) for _ in range(4)]


@pytest.mark.gpu
def test_half_precision_on_a_gpu_finds_the_same(weights: Path, pictures: Any) -> None:
    chosen = fastsam.FastSamOptions(image_size=SIDE)
    on_gpu = fastsam.load_network(weights, options=chosen)([rgb for rgb, _ in pictures])
    on_cpu = small_network(weights)([rgb for rgb, _ in pictures])
    for theirs, ours in zip(on_cpu, on_gpu, strict=True):
        assert len(ours.proposals) == len(theirs.proposals) > 0
        for wanted in theirs.proposals:
            overlaps = [wanted.rle.iou(found.rle) for found in ours.proposals]
            found = ours.proposals[int(np.argmax(overlaps))]
            assert max(overlaps) > 0.95
            assert found.score == pytest.approx(wanted.score, abs=0.02)
            assert found.box_xywh == pytest.approx(wanted.box_xywh, abs=2)


def test_finds_what_was_drawn_at_the_pictures_size(weights: Path, pictures: Any) -> None:
    found = small_network(weights)([rgb for rgb, _ in pictures])
    best = [
        max(MaskRle.encode(mask).iou(proposal.rle) for proposal in one.proposals)
        for (_, masks), one in zip(pictures, found, strict=True)
        for mask in masks
    ]
    assert np.mean(best) > 0.85
    assert min(best) > 0.6
    for one in found:
        scores = [proposal.score for proposal in one.proposals]
        assert scores == sorted(scores, reverse=True)
        assert min(scores) >= 0.4
        assert not one.truncated


def test_masks_lie_inside_their_boxes(weights: Path, pictures: Any) -> None:
    """x1, y1, w, h: a centre-based box, or one in network pixels, would fail."""
    for one in small_network(weights)([rgb for rgb, _ in pictures]):
        for proposal in one.proposals:
            assert proposal.box_xywh is not None
            x, y, w, h = proposal.box_xywh
            inner_x, inner_y, inner_w, inner_h = proposal.rle.box_xywh()
            assert inner_x >= x - 2
            assert inner_y >= y - 2
            assert inner_x + inner_w <= x + w + 2
            assert inner_y + inner_h <= y + h + 2


def test_too_many_detections_are_cut_and_said(weights: Path, pictures: Any) -> None:
    rgbs = [rgb for rgb, _ in pictures]
    whole = small_network(weights)(rgbs)
    cut = small_network(weights, max_det=2)(rgbs)
    exact = small_network(weights, max_det=len(whole[0].proposals))(rgbs[:1])
    assert [one.truncated for one in cut] == [len(one.proposals) > 2 for one in whole]
    assert any(one.truncated for one in cut)
    assert [one.proposals for one in cut] == [one.proposals[:2] for one in whole]
    assert not exact[0].truncated


def test_an_empty_picture_gives_nothing(weights: Path) -> None:
    (found,) = small_network(weights)([np.full((96, 160, 3), 70, np.uint8)])
    assert list(found.proposals) == []
    assert not found.truncated


def test_batches_and_single_pictures_agree(weights: Path, pictures: Any) -> None:
    network = small_network(weights)
    network.batch = 3
    together = network([rgb for rgb, _ in pictures])
    for (rgb, _), one in zip(pictures, together, strict=True):
        (alone,) = network([rgb])
        assert len(alone.proposals) == len(one.proposals)
        for a, b in zip(alone.proposals, one.proposals, strict=True):
            assert a.rle.iou(b.rle) > 0.99


def test_the_stage_writes_what_the_network_finds(weights: Path, tmp_path: Path) -> None:
    root = make_tiny_root(tmp_path / "root")
    shutil.rmtree(root.table("proposals"))
    rng = np.random.default_rng(2)
    for path in root.processed.glob(f"*/{EGO}/*.jpg"):
        rgb, _ = draw(rng, 140, 3)
        cv2.imwrite(str(path), rgb[:, :, ::-1])
    only = {"proposer": "fastsam", "directions": [Direction.EXO2EGO]}
    options = ProposerOptions(weights, max_det=2, image_size=SIDE)
    summary = run_propose(root, **only, options=options, run=RUN).check()
    table = read_manifest(root, "proposals").to_pandas()
    assert set(table["proposer"]) == {"fastsam"}
    assert set(table["camera"]) == {EGO}
    assert summary.counts["frames_with_proposals_cut_off"] > 8
    assert table.groupby(["take_uid", "frame_idx"]).size().max() == 2
    boxes = np.stack(table["bbox_xywh"].to_list())
    assert (boxes % 1 != 0).any()  # the network's own, not the mask's
    assert run_propose(root, **only, options=options, run=RUN).done == 0
    with pytest.raises(SettingsError, match="max_det=2, now 3"):
        run_propose(root, **only, options=replace(options, max_det=3), run=RUN)


class Payload:
    """What a hostile checkpoint does when it is unpickled carelessly."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.target,)


def test_a_checkpoint_that_runs_code_is_refused(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    hostile, harmed = tmp_path / "hostile.pt", tmp_path / "harmed"
    torch.save({"model": Payload(harmed)}, hostile)
    with pytest.raises(DataError, match="could run any code; use FastSAM-x.pt as published"):
        small_network(hostile)
    assert not harmed.exists()


def test_files_that_are_no_segmentation_network(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    text, other = tmp_path / "text.pt", tmp_path / "other.pt"
    text.write_text("not a checkpoint")
    with pytest.raises(DataError, match="text.pt is damaged or no checkpoint"):
        small_network(text)
    torch.save({"model": torch.nn.Linear(2, 2)}, other)
    with pytest.raises(DataError, match="holds Linear, not a YOLOv8 segmentation network"):
        small_network(other)


@pytest.mark.parametrize(
    ("options", "error", "sentence"),
    [
        (ProposerOptions(), SettingsError, "fastsam needs --weights FILE"),
        (ProposerOptions(Path("gone.pt")), DataError, "there is no weights file gone.pt"),
        (ProposerOptions(Path("FastSAM-x")), SettingsError, "must end in .pt"),
    ],
)
def test_missing_weights_are_one_sentence(
    options: ProposerOptions, error: type[Exception], sentence: str
) -> None:
    with pytest.raises(error, match=sentence):
        fastsam.settings(options)


def test_the_image_size_must_fit_the_network(weights: Path) -> None:
    with pytest.raises(SettingsError, match="a multiple of 32, 1000 came"):
        fastsam.settings(ProposerOptions(weights, image_size=1000))


def test_without_the_package_the_group_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.pt").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "ultralytics", None)
    with pytest.raises(SettingsError, match=r"pip install 'egoexo-tools\[fastsam\]'"):
        fastsam.settings(ProposerOptions(tmp_path / "a.pt"))
