"""What cached features take on disk: backbone x what is kept x sample → GB.

    python scripts/feature_sizes.py                 the table of docs/real-data.md
    python scripts/feature_sizes.py --root ROOT     what a root's pairs need, counted

A frame takes tokens x bytes of a token + (masks + proposals) x bytes of a descriptor, where a token
has C values of 2 bytes (fp16) or of 1 byte and a scale of 4 (int8), and a descriptor 2C values of
2. Tokens are (height // patch) x (width // patch) of a frame, ego 704x704 and exo 540x960. The
data set: 1,335 takes with one ego and one exo camera, 173 annotated instants, 742 K ego and 1.1 M
exo masks. Which frames a sample of pairs uses is not estimated but drawn, by the sampling of
`egoexo-tools pairs`, from takes of 4.17 objects of which one in eight frames shows nothing.
"""

import argparse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from bench_tables import SIZES, plan, states

from egoexo_tools.layout import DatasetRoot
from egoexo_tools.manifests import read_manifest
from egoexo_tools.needed_frames import SIDES, all_frames, needed_frames
from egoexo_tools.sampling import Sampling, choose
from egoexo_tools.stages.pairs import list_pairs
from egoexo_tools.vocab import Direction, Split, view_of
from omama.features.cache_files import bytes_of
from omama.features.images import PreparationConfig, token_grid

BACKBONES = {
    "dinov2": (14, 768),
    "dinov3": (16, 384),
    "dinov3-b": (16, 768),
    "resnet50-dino": (32, 2048),
    "resnet50-dino-s16": (16, 2048),
    "efficientnet-lite0": (16, 472),
    "classical": (14, 128),
}
"""Name → patch size, channels."""
STORED = {"fp16": "fp16", "int8": "int8", "descriptors": "descriptors only"}
KEPT_HW = {"ego": (704, 704), "exo": (540, 960)}
TAKES = {"train": 821, "val": 201, "test": 313}
HEALTH_TAKES = 90
"""55 train, 12 val and 23 test takes that are annotated; a list of them is public (in the GitHub
repository marcolomele/exo-ego-correspondence, target_uids_health.txt)."""
INSTANTS = 173
MASKS = {"ego": 742_000, "exo": 1_100_000}


@dataclass(frozen=True)
class Frames:
    """Frames of one size with all that lies in them."""

    height: int
    width: int
    frames: float
    masks: float
    proposals: float

    def bytes(self, backbone: str, stored: str) -> int:
        """What their features take."""
        patch, width = BACKBONES[backbone]
        grid = token_grid(self.height, self.width, PreparationConfig(patch_size=patch))
        counts = round(self.masks), round(self.proposals), round(self.frames)
        return bytes_of(grid[0] * grid[1], width, *counts, stored=stored)


def of_takes(takes: float, share: float, proposals: int) -> list[Frames]:
    """So many takes, of whose frames a share is used; each is a destination of some pair."""
    frames = takes * INSTANTS * share
    per_frame = {view: count / (sum(TAKES.values()) * INSTANTS) for view, count in MASKS.items()}
    return [
        Frames(*KEPT_HW[view], frames, frames * per_frame[view], frames * proposals)
        for view in KEPT_HW
    ]


def used_share(fraction: float, by: str, *, takes: int = 60) -> float:
    """The share of the frames that a sample of the pairs of both directions uses."""
    rows = pd.DataFrame(
        [
            (take.take_uid, f"object {number}", camera, view_of(camera).value, idx, which)
            for take in plan(1)[:takes]
            for number in range(take.objects)
            for camera in SIZES
            for idx, which in states(take, number)
        ],
        columns=["take_uid", "object_name", "camera", "view", "frame_idx", "which"],
    )
    rows["visible"] = rows["which"].notna()
    for name in ("take_uid", "object_name", "camera"):
        rows[name] = rows[name].astype("category")
    used: set[tuple[str, str, int]] = set()
    for direction in Direction:
        pairs = list_pairs(rows, direction).assign(scenario="one")
        kept = pairs[choose(pairs, Sampling(fraction=fraction, by=by))]
        for side in SIDES:
            columns = ["take_uid", f"{side}_camera", "frame_idx"]
            used |= set(kept[columns].itertuples(index=False, name=None))
    return len(used) / len(rows[["take_uid", "camera", "frame_idx"]].drop_duplicates())


def of_root(root: DatasetRoot) -> Iterator[Frames]:
    """The frames that the root's pairs use (all, where it has none yet), counted, by camera."""
    chosen = needed_frames(root)
    columns = ["camera", "frame_idx", "visible"]
    for camera, there in all_frames(root).items():
        unit, wanted = ".".join(camera), chosen.of(camera, there)
        if not wanted.size:
            continue
        size = read_manifest(root, "frames", columns=["height", "width"], units=[unit]).slice(0, 1)
        masks = read_manifest(root, "masks", columns=columns, units=[camera[0]]).to_pandas()
        masks = masks[masks["visible"] & (masks["camera"] == camera[1])]
        proposals = np.zeros(0)
        if root.part("proposals", unit).exists():
            table = read_manifest(root, "proposals", columns=["frame_idx"], units=[unit])
            proposals = table["frame_idx"].to_numpy()
        yield Frames(
            *(int(size[name][0].as_py()) for name in ("height", "width")),
            wanted.size,
            int(np.isin(masks["frame_idx"], wanted).sum()),
            int(np.isin(proposals, wanted).sum()),
        )


def table(samples: Mapping[str, list[Frames]]) -> str:
    """Markdown: a row for each backbone and what is kept, a column a sample."""
    heads = ["backbone", "kept", *samples]
    lines = [f"| {' | '.join(heads)} |", "|---" * 2 + "|---:" * len(samples) + "|"]
    for backbone in BACKBONES:
        for stored, kept in STORED.items():
            sizes = [sum(one.bytes(backbone, stored) for one in each) for each in samples.values()]
            cells = [f"`{backbone}`", kept, *map(_gigabytes, sizes)]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:,.0f} GB" if count >= 1e10 else f"{count / 1e9:.3g} GB"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, help="Count what this root's pairs use.")
    parser.add_argument("--proposals", type=int, default=80, help="A frame.  [default: 80]")
    options = parser.parse_args()
    if options.root:
        print(table({"this root": list(of_root(DatasetRoot(options.root)))}))
        return
    shares = {by: used_share(0.2, by) for by in ("frame", "take")}
    for by, share in shares.items():
        print(f"20 % of the pairs, drawn by {by}, use {share:.0%} of the frames")
    train = TAKES[Split.TRAIN]
    print(
        table(
            {
                "health": of_takes(HEALTH_TAKES, 1, options.proposals),
                "20 % of train, by frame": of_takes(train, shares["frame"], options.proposals),
                "20 % of train, by take": of_takes(train, shares["take"], options.proposals),
                "everything": of_takes(sum(TAKES.values()), 1, options.proposals),
            }
        )
    )


if __name__ == "__main__":
    main()
