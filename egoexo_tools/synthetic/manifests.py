"""Writes the download manifests of a release on disk, as in the bucket of the real release.

There is one `<part>/manifest.json` each for metadata (takes.json), annotations, takes (the videos)
and downscaled_takes/448. It is a list of {uid, paths: [{source_path, relative_path, views,
universities, file_type, size, checksum}], splits, benchmarks}. As in the real manifests, `size` is
set and `checksum` is null.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from egoexo_tools.layout import DOWNSCALED_448, Release, write_atomic

PARTS = ("metadata", "annotations", "takes", "downscaled_takes/448")


def write_manifests(release: Release, bucket_prefix: str, out_dir: Path) -> dict[str, Path]:
    """Write `out_dir/<part>/manifest.json` for every part of PARTS; returns their paths.

    source_path is `bucket_prefix` (such as s3://bucket/v2) + "/" + relative_path, where a server
    must have the release's files.
    """
    release.require()
    takes = json.loads(release.takes_json.read_bytes())
    splits = json.loads(release.splits_json.read_bytes())
    by_part: dict[str, list[dict[str, Any]]] = {part: [] for part in PARTS}
    by_part["metadata"] = [_entry(release, bucket_prefix, "takes", [release.takes_json])]
    for path in sorted(release.splits_json.parent.glob("*.json")):
        name = path.stem.split("_")
        split = name[1:] if name[0] == "relations" else []
        benchmarks = ["relations"] if split else []
        by_part["annotations"].append(
            _entry(release, bucket_prefix, path.stem, [path], splits=split, benchmarks=benchmarks)
        )
    for take in takes:
        uid = take["take_uid"]
        cameras = [
            stream["cam_id"]
            for streams in take["frame_aligned_videos"].values()
            for stream in streams.values()
        ]
        for part, short_side in (("takes", None), ("downscaled_takes/448", DOWNSCALED_448)):
            paths = [
                release.video(take["take_name"], camera, short_side=short_side)
                for camera in cameras
            ]
            by_part[part].append(
                _entry(
                    release,
                    bucket_prefix,
                    uid,
                    paths,
                    universities=[take["university_id"]],
                    splits=[splits["take_uid_to_split"][uid]],
                    benchmarks=splits["take_uid_to_benchmark"][uid],
                )
            )
    manifests = {}
    for part, entries in by_part.items():
        manifests[part] = out_dir / part / "manifest.json"
        write_atomic(manifests[part], json.dumps(entries, indent=1, ensure_ascii=False))
    return manifests


def _entry(
    release: Release,
    bucket_prefix: str,
    uid: str,
    paths: Sequence[Path],
    *,
    universities: Sequence[str] = (),
    splits: Sequence[str] = (),
    benchmarks: Sequence[str] = (),
) -> dict[str, Any]:
    rows = []
    for path in paths:
        relative = path.relative_to(release.path).as_posix()
        ego = path.suffix == ".mp4" and "aria" in path.stem
        exo = path.suffix == ".mp4" and not ego
        rows.append(
            {
                "source_path": f"{bucket_prefix.rstrip('/')}/{relative}",
                "relative_path": relative,
                "views": ["ego"] if ego else ["exo"] if exo else None,
                "universities": list(universities) or None,
                "file_type": path.suffix.lstrip("."),
                "size": path.stat().st_size,
                "checksum": None,
            }
        )
    return {
        "uid": uid,
        "paths": rows,
        "splits": list(splits) or None,
        "benchmarks": list(benchmarks) or None,
    }
