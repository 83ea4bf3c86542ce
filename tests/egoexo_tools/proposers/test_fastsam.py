"""The FastSAM adapter, with a small network of the same architecture that is trained here.

The network is YOLOv8-seg with narrow layers. It learns to find drawn rectangles, so its masks and
boxes can be compared with the drawing.
"""

import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from tiny_root import EGO, TAKES, make_tiny_root, rewrite_digests

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
    """A grey image with bright rectangles that do not touch, and their masks."""
    rgb = np.full((side, side, 3), 70, np.uint8)
    masks: list[Any] = []
    occupied = np.zeros((side, side), bool)
    while len(masks) < count:
        h, w = rng.integers(side // 7, side // 3, 2)
        y, x = rng.integers(2, side - h - 2), rng.integers(2, side - w - 2)
        if occupied[max(0, y - 6) : y + h + 6, max(0, x - 6) : x + w + 6].any():
            continue
        occupied[y : y + h, x : x + w] = True
        rgb[y : y + h, x : x + w] = rng.integers(140, 256, 3)
        mask = np.zeros((side, side), bool)
        mask[y : y + h, x : x + w] = True
        masks.append(mask)
    noisy = rgb + rng.normal(0, 4, rgb.shape)
    return noisy.clip(0, 255).astype(np.uint8), masks


def batch(rng: np.random.Generator, size: int) -> dict[str, Any]:
    """Training data in the form that ultralytics' loss expects."""
    import torch

    images, boxes, image_idxs, masks = [], [], [], []
    for image_idx in range(size):
        rgb, rectangles = draw(rng, SIDE, int(rng.integers(1, 5)))
        images.append(torch.from_numpy(rgb).permute(2, 0, 1).float() / 255)
        numbered = np.zeros((SIDE, SIDE), np.uint8)
        for i, mask in enumerate(rectangles, start=1):
            numbered[mask] = i
            rows, columns = np.nonzero(mask)
            y0, y1, x0, x1 = rows.min(), rows.max() + 1, columns.min(), columns.max() + 1
            boxes.append([(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0])
            image_idxs.append(image_idx)
        small = cv2.resize(numbered, (SIDE // 4, SIDE // 4), interpolation=cv2.INTER_NEAREST)
        masks.append(torch.from_numpy(small))
    return {
        "img": torch.stack(images),
        "bboxes": torch.tensor(np.array(boxes) / SIDE, dtype=torch.float32),
        "batch_idx": torch.tensor(image_idxs, dtype=torch.float32),
        "cls": torch.zeros(len(boxes), 1),
        "masks": torch.stack(masks),
    }


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a narrow YOLOv8-seg, trained for a few seconds."""
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
    network_options = fastsam.FastSamOptions(image_size=SIDE, **options)
    return fastsam.load_network(weights, options=network_options, device="cpu")


@pytest.fixture(scope="module")
def drawings() -> list[tuple[Any, list[Any]]]:
    rng = np.random.default_rng(1)
    return [draw(rng, 320, 3) for _ in range(4)]


@pytest.mark.gpu
def test_half_precision_on_a_gpu_gives_the_same_proposals(weights: Path, drawings: Any) -> None:
    options = fastsam.FastSamOptions(image_size=SIDE)
    on_gpu = fastsam.load_network(weights, options=options)([rgb for rgb, _ in drawings])
    on_cpu = small_network(weights)([rgb for rgb, _ in drawings])
    for cpu_frame, gpu_frame in zip(on_cpu, on_gpu, strict=True):
        assert len(gpu_frame.proposals) == len(cpu_frame.proposals) > 0
        for cpu_proposal in cpu_frame.proposals:
            ious = [cpu_proposal.rle.iou(proposal.rle) for proposal in gpu_frame.proposals]
            gpu_proposal = gpu_frame.proposals[int(np.argmax(ious))]
            assert max(ious) > 0.95
            assert gpu_proposal.score == pytest.approx(cpu_proposal.score, abs=0.02)
            assert gpu_proposal.box_xywh == pytest.approx(cpu_proposal.box_xywh, abs=2)


def test_the_drawn_rectangles_are_found_at_the_image_size(weights: Path, drawings: Any) -> None:
    frames = small_network(weights)([rgb for rgb, _ in drawings])
    best = [
        max(MaskRle.encode(mask).iou(proposal.rle) for proposal in frame.proposals)
        for (_, masks), frame in zip(drawings, frames, strict=True)
        for mask in masks
    ]
    assert np.mean(best) > 0.85
    assert min(best) > 0.6
    for frame in frames:
        scores = [proposal.score for proposal in frame.proposals]
        assert scores == sorted(scores, reverse=True)
        assert min(scores) >= 0.4
        assert not frame.truncated


def test_masks_are_inside_their_boxes(weights: Path, drawings: Any) -> None:
    """x1, y1, w, h: a centre-based box, or one in network pixels, would fail."""
    for frame in small_network(weights)([rgb for rgb, _ in drawings]):
        for proposal in frame.proposals:
            assert proposal.box_xywh is not None
            x, y, w, h = proposal.box_xywh
            inner_x, inner_y, inner_w, inner_h = proposal.rle.box_xywh()
            assert inner_x >= x - 2
            assert inner_y >= y - 2
            assert inner_x + inner_w <= x + w + 2
            assert inner_y + inner_h <= y + h + 2


def test_proposals_beyond_max_det_are_dropped_and_reported(weights: Path, drawings: Any) -> None:
    rgbs = [rgb for rgb, _ in drawings]
    complete = small_network(weights)(rgbs)
    limited = small_network(weights, max_det=2)(rgbs)
    exact = small_network(weights, max_det=len(complete[0].proposals))(rgbs[:1])
    assert [frame.truncated for frame in limited] == [len(f.proposals) > 2 for f in complete]
    assert any(frame.truncated for frame in limited)
    assert [frame.proposals for frame in limited] == [frame.proposals[:2] for frame in complete]
    assert not exact[0].truncated


def test_an_empty_image_has_no_proposals(weights: Path) -> None:
    (frame,) = small_network(weights)([np.full((96, 160, 3), 70, np.uint8)])
    assert list(frame.proposals) == []
    assert not frame.truncated


def test_batches_and_single_images_agree(weights: Path, drawings: Any) -> None:
    network = small_network(weights)
    network.batch = 3
    frames = network([rgb for rgb, _ in drawings])
    for (rgb, _), frame in zip(drawings, frames, strict=True):
        (single,) = network([rgb])
        assert len(single.proposals) == len(frame.proposals)
        for a, b in zip(single.proposals, frame.proposals, strict=True):
            assert a.rle.iou(b.rle) > 0.99


def test_the_stage_writes_the_proposals_of_the_network(weights: Path, tmp_path: Path) -> None:
    root = make_tiny_root(tmp_path / "root")
    shutil.rmtree(root.table("proposals"))
    rng = np.random.default_rng(2)
    for path in root.processed.glob(f"*/{EGO}/*.jpg"):
        rgb, _ = draw(rng, 140, 3)
        cv2.imwrite(str(path), rgb[:, :, ::-1])
    for take_uid in TAKES:
        rewrite_digests(root, f"{take_uid}.{EGO}")
    arguments = {"proposer": "fastsam", "directions": [Direction.EXO2EGO]}
    options = ProposerOptions(weights, max_det=2, image_size=SIDE)
    summary = run_propose(root, **arguments, options=options, run=RUN).check()
    table = read_manifest(root, "proposals").to_pandas()
    assert set(table["proposer"]) == {"fastsam"}
    assert set(table["camera"]) == {EGO}
    assert summary.counts["frames_with_proposals_cut_off"] > 8
    assert table.groupby(["take_uid", "frame_idx"]).size().max() == 2
    boxes = np.stack(table["bbox_xywh"].to_list())
    assert (boxes % 1 != 0).any()  # the network's own, not the mask's
    assert run_propose(root, **arguments, options=options, run=RUN).done == 0
    with pytest.raises(SettingsError, match="max_det=2, now 3"):
        run_propose(root, **arguments, options=replace(options, max_det=3), run=RUN)


class Payload:
    """Runs code when it is unpickled without restrictions."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.target,)


def test_a_checkpoint_that_runs_code_is_rejected(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    hostile, evidence = tmp_path / "hostile.pt", tmp_path / "code-was-run"
    torch.save({"model": Payload(evidence)}, hostile)
    with pytest.raises(DataError, match="could run any code; use the published FastSAM-x.pt"):
        small_network(hostile)
    assert not evidence.exists()


def test_files_that_are_not_a_segmentation_network_are_rejected(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    text, other = tmp_path / "text.pt", tmp_path / "other.pt"
    text.write_text("not a checkpoint")
    with pytest.raises(DataError, match="text.pt is damaged or not a checkpoint"):
        small_network(text)
    torch.save({"model": torch.nn.Linear(2, 2)}, other)
    with pytest.raises(DataError, match="contains Linear, not a YOLOv8 segmentation network"):
        small_network(other)


@pytest.mark.parametrize(
    ("options", "error", "sentence"),
    [
        (ProposerOptions(), SettingsError, "fastsam needs --weights FILE"),
        (ProposerOptions(Path("gone.pt")), DataError, "there is no weights file gone.pt"),
        (ProposerOptions(Path("FastSAM-x")), SettingsError, "must end in .pt"),
    ],
)
def test_missing_weights_are_explained(
    options: ProposerOptions, error: type[Exception], sentence: str
) -> None:
    with pytest.raises(error, match=sentence):
        fastsam.settings(options)


def test_the_image_size_must_be_a_multiple_of_32(weights: Path) -> None:
    with pytest.raises(SettingsError, match="the image size is 1000; it must be a multiple of 32"):
        fastsam.settings(ProposerOptions(weights, image_size=1000))


def test_a_missing_package_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.pt").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "ultralytics", None)
    with pytest.raises(SettingsError, match=r"pip install 'egoexo-tools\[fastsam\]'"):
        fastsam.settings(ProposerOptions(tmp_path / "a.pt"))
