"""Print the disk space of cached features, by backbone, storage format and sample of the data.

    python scripts/feature_sizes.py                 the table of docs/real-data.md
    python scripts/feature_sizes.py --root ROOT     the same for the pairs of a root

A frame takes (tokens x bytes per token) + (masks + proposals) x bytes per descriptor. A token has
C values of 2 bytes (fp16), or of 1 byte plus a scale of 4 bytes (int8); a descriptor has 2C values
of 2 bytes. A frame has (height // patch) x (width // patch) tokens; ego frames are 704x704 pixels,
exo frames 540x960. The data set has 1,335 takes with one ego and one exo camera, 173 annotated
instants, 742,000 ego masks and 1,100,000 exo masks. The share of frames that a sample of pairs
uses is simulated: the sampling of `egoexo-tools pairs` runs on takes of 4.17 objects, each absent
in one of eight frames.
"""

import argparse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from egoexo_tools.layout import DatasetRoot
from egoexo_tools.manifests import read_manifest
from egoexo_tools.needed_frames import SIDES, existing_frames, needed_frames
from egoexo_tools.sampling import Sampling, select_pairs
from egoexo_tools.stages.pairs import list_pairs
from egoexo_tools.vocab import Direction, Split
from omama.features.cache_files import bytes_of
from omama.features.images import PreparationConfig, token_grid

BACKBONES = {
    "dinov2": (14, 768),
    "dinov3": (16, 384),
    "dinov3-b": (16, 768),
    "resnet50-dino": (32, 2048),
    "resnet50-dino-s16": (16, 2048),
    "efficientnet-lite0": (16, 472),
}
"""Name → patch size, channels."""
STORAGE_FORMATS = ("fp16", "int8", "descriptors")
FRAME_HW = {"ego": (704, 704), "exo": (540, 960)}
CAMERAS = {"ego": "aria01_214-1", "exo": "cam01"}
TAKES = {"train": 821, "val": 201, "test": 313}
HEALTH_TAKES = 90
"""55 train, 12 val and 23 test takes that are annotated, from a public list (the GitHub repository
marcolomele/exo-ego-correspondence, target_uids_health.txt)."""
INSTANTS = 173
MASKS = {"ego": 742_000, "exo": 1_100_000}
OBJECTS_PER_TAKE, TRACK_FRAMES = 4.17, 185
"""Of the simulated takes."""


@dataclass(frozen=True)
class FrameGroup:
    """Frames of one size, with the numbers of their masks and proposals."""

    height: int
    width: int
    frames: float
    masks: float
    proposals: float

    def bytes(self, backbone: str, stored: str) -> int:
        """Bytes of the features of these frames."""
        patch, width = BACKBONES[backbone]
        grid = token_grid(self.height, self.width, PreparationConfig(patch_size=patch))
        counts = round(self.masks), round(self.proposals), round(self.frames)
        return bytes_of(grid[0] * grid[1], width, *counts, storage=stored)


def frames_of_takes(takes: float, share: float, proposals: int) -> list[FrameGroup]:
    """The used share of the frames of some takes, with `proposals` in every frame."""
    frames = takes * INSTANTS * share
    masks_per_frame = {
        view: count / (sum(TAKES.values()) * INSTANTS) for view, count in MASKS.items()
    }
    return [
        FrameGroup(*FRAME_HW[view], frames, frames * masks_per_frame[view], frames * proposals)
        for view in FRAME_HW
    ]


def used_share(fraction: float, by: str, *, takes: int = 60) -> float:
    """The share of the frames that a sample of the pairs of both directions uses."""
    rows = simulated_masks(takes)
    used: set[tuple[str, str, int]] = set()
    for direction in Direction:
        pairs = list_pairs(rows, direction).assign(scenario="one")
        sample = pairs[select_pairs(pairs, Sampling(fraction=fraction, by=by))]
        for side in SIDES:
            columns = ["take_uid", f"{side}_camera", "frame_idx"]
            used |= set(sample[columns].itertuples(index=False, name=None))
    return len(used) / len(rows[["take_uid", "camera", "frame_idx"]].drop_duplicates())


def simulated_masks(takes: int) -> pd.DataFrame:
    """Rows of the masks manifest, without masks: every object absent in one of eight frames."""
    object_ends = np.round(np.arange(takes + 1) * OBJECTS_PER_TAKE).astype(int)
    rows = pd.DataFrame(
        [
            (
                f"{take:08x}-0000-4000-8000-{take:012x}",
                f"object {number}",
                camera,
                view,
                30 * instant,
                bool((instant + number) % 8),
            )
            for take, objects in enumerate(np.diff(object_ends).tolist())
            for number in range(objects)
            for view, camera in CAMERAS.items()
            for instant in range(TRACK_FRAMES)
        ],
        columns=["take_uid", "object_name", "camera", "view", "frame_idx", "visible"],
    )
    categories = {name: "category" for name in ("take_uid", "object_name", "camera")}
    return rows.astype(categories)


def frames_of_root(root: DatasetRoot) -> Iterator[FrameGroup]:
    """By camera: the frames that the root's pairs use, or all frames of a root without pairs."""
    needed = needed_frames(root)
    columns = ["camera", "frame_idx", "visible"]
    for camera, frame_idxs in existing_frames(root).items():
        unit, needed_idxs = ".".join(camera), needed.of(camera, frame_idxs)
        if not needed_idxs.size:
            continue
        size = read_manifest(root, "frames", columns=["height", "width"], units=[unit]).slice(0, 1)
        masks = read_manifest(root, "masks", columns=columns, units=[camera[0]]).to_pandas()
        masks = masks[masks["visible"] & (masks["camera"] == camera[1])]
        proposal_idxs = np.zeros(0)
        if root.part("proposals", unit).exists():
            table = read_manifest(root, "proposals", columns=["frame_idx"], units=[unit])
            proposal_idxs = table["frame_idx"].to_numpy()
        yield FrameGroup(
            *(int(size[name][0].as_py()) for name in ("height", "width")),
            needed_idxs.size,
            int(np.isin(masks["frame_idx"], needed_idxs).sum()),
            int(np.isin(proposal_idxs, needed_idxs).sum()),
        )


def markdown_table(samples: Mapping[str, list[FrameGroup]]) -> str:
    """A row for each backbone, a column for each sample; GB as fp16, int8 and descriptors only."""
    lines = [f"| backbone | {' | '.join(samples)} |", "|---" + "|---:" * len(samples) + "|"]
    for backbone in BACKBONES:
        cells = []
        for groups in samples.values():
            sizes = [
                sum(group.bytes(backbone, stored) for group in groups) / 1e9
                for stored in STORAGE_FORMATS
            ]
            # From 10 GB on without a decimal point.
            cells.append(
                " / ".join(f"{size:,.0f}" if size >= 10 else f"{size:.3g}" for size in sizes)
            )
        lines.append(f"| `{backbone}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--root", type=Path, help="Count the frames that this root's pairs use.")
    parser.add_argument("--proposals", type=int, default=80, help="Per frame.  [default: 80]")
    options = parser.parse_args()
    if options.root:
        print(markdown_table({"this root": list(frames_of_root(DatasetRoot(options.root)))}))
        return
    shares = {by: used_share(0.2, by) for by in ("frame", "take")}
    for by, share in shares.items():
        print(f"20 % of the pairs, drawn by {by}, use {share:.0%} of the frames")
    train, proposals = TAKES[Split.TRAIN], options.proposals
    samples = {
        "health": frames_of_takes(HEALTH_TAKES, 1, proposals),
        "20 % of train, by frame": frames_of_takes(train, shares["frame"], proposals),
        "20 % of train, by take": frames_of_takes(train, shares["take"], proposals),
        "everything": frames_of_takes(sum(TAKES.values()), 1, proposals),
    }
    print(markdown_table(samples))


if __name__ == "__main__":
    main()
