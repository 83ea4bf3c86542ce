"""Start and memory of training's tables at full size: mapped and shared, and read directly.

    python scripts/bench_mapped.py                     755 takes, 159,000 pairs, 10.6 M proposals
    python scripts/bench_mapped.py --takes 150 --twin  also read directly, today's slow way

Makes the manifests (no pictures) of takes of 175 frames in two cameras with 80 proposals a frame,
then starts processes that load the pairs as training does and look at every mask's box. For each:
seconds of its start and of the CPU, its own memory (USS: what would come free if it ended; mapped
pages that another process uses too are not in it) and of that the anonymous part (which no file
backs). Needs psutil and Linux; the folder takes some 5 GB at full size.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
from bench_tables import Drawn, draw
from tqdm import tqdm

from egoexo_tools.layout import DatasetRoot
from egoexo_tools.manifests import SCHEMAS, write_manifest
from egoexo_tools.runs import join_pair_ids
from egoexo_tools.vocab import Direction, Split, view_of

EGO, EXO = "aria01_214-1", "cam01"
KEPT = {EGO: (704, 704), EXO: (540, 960)}
VIDEO = {EGO: (1408, 1408), EXO: (2160, 3840)}
FRAMES, PROPOSALS, OBJECTS, PAIRS = 175, 80, 3, 210
"""Of a take."""
UNIT = f"{Split.TRAIN}.{Direction.EGO2EXO}"
SECONDS_ALLOWED, GIGABYTES_ALLOWED = 10, 2

CHILD = """
import sys, time, json, resource
from pathlib import Path
import psutil
import omama.matching.train
from egoexo_tools.layout import DatasetRoot
from egoexo_tools.vocab import Direction, Split
from omama import dataset
from omama.matching.task import TrainingData
from omama.features.store import MasksOnly
started, cpu = time.perf_counter(), time.process_time()
load = dataset.read_dataset if sys.argv[2] == "direct" else dataset.load_dataset
data = load(DatasetRoot(Path(sys.argv[1])), split=Split.TRAIN, direction=Direction.EGO2EXO)
store = MasksOnly(data.frames)
fingerprint = TrainingData(data, data, store, store).fingerprint  # looks at every box
seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
print("ready", flush=True)
sys.stdin.readline()
memory = psutil.Process().memory_full_info()
anonymous = sum(int(line.split()[1]) << 10
                for line in Path("/proc/self/status").read_text().splitlines()
                if line.startswith("RssAnon"))
print(json.dumps({"seconds": seconds, "cpu": cpu, "uss": memory.uss, "anonymous": anonymous,
                  "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10,
                  "pairs": len(data.pairs), "frames": len(data.frames),
                  "proposals": len(data.frames.proposals.columns), "fingerprint": fingerprint}))
"""


def make_root(path: Path, takes: int) -> DatasetRoot:
    """The manifests of so many takes."""
    root = DatasetRoot(path)
    masks = {camera: draw(seed, hw) for seed, (camera, hw) in enumerate(VIDEO.items())}
    proposals = draw(7, KEPT[EXO])
    pairs = []
    for number in tqdm(range(takes), desc="manifests"):
        take_uid = f"{number:08x}-0000-4000-8000-{number:012x}"
        row = {"take_uid": take_uid, "split": "train", "ego_camera": EGO, "exo_cameras": [EXO]}
        write_manifest(root, "takes", take_uid, [row])
        for camera in KEPT:
            write_manifest(root, "frames", f"{take_uid}.{camera}", _frames(take_uid, camera))
        tables = [_masks(take_uid, camera, masks[camera]) for camera in KEPT]
        write_manifest(root, "masks", take_uid, pa.concat_tables(tables))
        table = _proposals(take_uid, proposals, number)
        write_manifest(root, "proposals", f"{take_uid}.{EXO}", table)
        pairs.append(_pairs(take_uid))
    write_manifest(root, "pairs", UNIT, pa.concat_tables(pairs))
    return root


def _frame_idxs(repeated: int) -> np.ndarray:
    return np.repeat(np.arange(FRAMES) * 30, repeated)


def _frames(take_uid: str, camera: str) -> pa.Table:
    idxs = _frame_idxs(1)
    sizes = (*KEPT[camera], *VIDEO[camera])
    names = ("height", "width", "source_height", "source_width")
    return _table(
        take_uid=take_uid,
        camera=camera,
        frame_idx=idxs,
        view=str(view_of(camera)),
        path=[f"processed/{take_uid}/{camera}/{idx}.jpg" for idx in idxs.tolist()],
        **dict(zip(names, sizes, strict=True)),
    )


def _drawn(drawn: Drawn, which: np.ndarray) -> dict[str, object]:
    hw = drawn.rles[0].height, drawn.rles[0].width
    counts = pa.array([rle.counts for rle in drawn.rles]).take(pa.array(which))
    boxes = np.asarray(drawn.boxes, np.float32)[which].ravel()
    return {
        "rle_height": hw[0],
        "rle_width": hw[1],
        "rle_counts": counts,
        "area": np.asarray(drawn.areas)[which],
        "bbox_xywh": pa.FixedSizeListArray.from_arrays(pa.array(boxes), 4),
    }


def _masks(take_uid: str, camera: str, drawn: Drawn) -> pa.Table:
    idxs = _frame_idxs(OBJECTS)
    which = np.arange(idxs.size) % len(drawn.rles)
    names = [f"object {number}" for number in range(OBJECTS)] * FRAMES
    return pa.table(
        _filled(
            idxs.size,
            take_uid=take_uid,
            object_name=names,
            camera=camera,
            frame_idx=idxs,
            view=str(view_of(camera)),
            visible=True,
            **_drawn(drawn, which),
        )
    ).select(SCHEMAS["masks"].names)


def _proposals(take_uid: str, drawn: Drawn, shift: int) -> pa.Table:
    idxs = _frame_idxs(PROPOSALS)
    which = (np.arange(idxs.size) * 7 + shift) % len(drawn.rles)
    return _table(
        take_uid=take_uid,
        camera=EXO,
        frame_idx=idxs,
        proposal_idx=np.tile(np.arange(PROPOSALS), FRAMES),
        proposer="bench",
        score=0.5,
        **_drawn(drawn, which),
    )


def _pairs(take_uid: str) -> pa.Table:
    number = np.arange(PAIRS)
    columns = _filled(
        PAIRS,
        split=str(Split.TRAIN),
        direction=str(Direction.EGO2EXO),
        take_uid=take_uid,
        object_name=[f"object {i // FRAMES}" for i in range(PAIRS)],
        frame_idx=pa.array(number % FRAMES * 30, pa.int32()),
        source_camera=EGO,
        dest_camera=EXO,
        dest_state="visible",
    )
    return pa.table({"pair_id": join_pair_ids(columns), **columns})


def _table(**columns: object) -> pa.Table:
    return pa.table(_filled(len(columns["frame_idx"]), **columns))  # type: ignore[arg-type]


def _filled(rows: int, **columns: object) -> dict[str, pa.Array]:
    return {
        name: pa.repeat(pa.scalar(value), rows)
        if isinstance(value, str | int | float)
        else pa.array(value)
        if not isinstance(value, pa.Array | pa.ChunkedArray)
        else value
        for name, value in columns.items()
    }


def start(name: str, root: DatasetRoot, how: str, count: int = 1) -> list[dict[str, float]]:
    """So many processes at once; prints a line for each and returns what it said."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", CHILD, str(root.path), how],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(count)
    ]
    for process in processes:
        assert process.stdout is not None
        process.stdout.readline()  # all hold their tables when the first is measured
    found = []
    for process in processes:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write("\n")
        process.stdin.flush()
        found.append(json.loads(process.stdout.readline()))
    for process, one in zip(processes, found, strict=True):
        process.wait()
        print(
            f"{name:<22} {one['seconds']:7.1f} s ({one['cpu']:.1f} s CPU)   own "
            f"{one['uss'] / 1e9:5.2f} GB, of that anonymous {one['anonymous'] / 1e9:5.2f} GB   "
            f"largest resident {one['peak'] / 1e9:5.2f} GB   load {os.getloadavg()[0]:.1f}",
            flush=True,
        )
    return found


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def run(folder: Path, options: argparse.Namespace) -> bool:
    done = folder / "done"
    root = DatasetRoot(folder / "root")
    if not done.exists():
        make_root(root.path, options.takes)
        done.touch()
    shutil.rmtree(root.mapped, ignore_errors=True)
    (first,) = start("first start", root, "mapped")
    (second,) = start("second start", root, "mapped")
    two = start("two at once", root, "mapped", 2)
    print(
        f"{options.takes:,} takes, {first['pairs']:,} pairs, {first['frames']:,} frames, "
        f"{first['proposals']:,} proposals; manifests {size_of(root.manifests) / 1e9:.2f} GB, "
        f"tables {size_of(root.mapped) / 1e9:.2f} GB"
    )
    same = True
    if options.twin:
        (direct,) = start("read directly", root, "direct")
        same = direct["fingerprint"] == second["fingerprint"]
        print("the same fingerprint" if same else "OTHER VALUES")
    within = max(one["uss"] for one in two) < GIGABYTES_ALLOWED * 1e9
    return same and within and second["seconds"] < SECONDS_ALLOWED


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--takes", type=int, default=755)
    parser.add_argument(
        "--twin", action="store_true", help="Also read directly, at 755 takes some 15 GB."
    )
    parser.add_argument("--keep", type=Path, help="Make it here, and keep it for the next time.")
    options = parser.parse_args()
    if options.keep:
        options.keep.mkdir(parents=True, exist_ok=True)
        sys.exit(not run(options.keep, options))
    with tempfile.TemporaryDirectory() as scratch:
        sys.exit(not run(Path(scratch), options))


if __name__ == "__main__":
    main()
