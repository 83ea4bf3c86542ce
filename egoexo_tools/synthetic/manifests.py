"""Writes the download manifests of a release on disk, as in the bucket of the real release.

There is one `<part>/manifest.json` each for metadata (takes.json), annotations, takes (the videos)
and downscaled_takes/448. It is a list of {uid, paths: [{source_path, relative_path, views,
universities, file_type, size, checksum}], splits, benchmarks}. As in the real manifests, `size` is
set and `checksum` is null.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from egoexo_tools.aliases import Json
from egoexo_tools.layout import DOWNSCALED_448, Release, write_atomic


def write_manifests(release: Release, bucket_prefix: str, out_dir: Path) -> dict[str, Path]:
    """Write `out_dir/<part>/manifest.json` for every part; returns the paths by part.

    source_path is `bucket_prefix` (such as s3://bucket/v2) + "/" + relative_path, where a server
    must have the release's files.
    """
    release.require()
    splits = json.loads(release.splits_json.read_bytes())
    annotations: list[Json] = []
    takes: list[Json] = []
    small_takes: list[Json] = []
    for path in sorted(release.splits_json.parent.glob("*.json")):
        name, _, split = path.stem.partition("_")
        is_relations = name == "relations"
        annotations.append(
            {
                "uid": path.stem,
                "paths": _paths(release, bucket_prefix, [path]),
                "splits": [split] if is_relations else None,
                "benchmarks": ["relations"] if is_relations else None,
            }
        )
    for take in json.loads(release.takes_json.read_bytes()):
        uid = take["take_uid"]
        cameras = [
            stream["cam_id"]
            for streams in take["frame_aligned_videos"].values()
            for stream in streams.values()
        ]
        for entries, short_side in ((takes, None), (small_takes, DOWNSCALED_448)):
            videos = [
                release.video(take["take_name"], camera, short_side=short_side)
                for camera in cameras
            ]
            entries.append(
                {
                    "uid": uid,
                    "paths": _paths(release, bucket_prefix, videos, [take["university_id"]]),
                    "splits": [splits["take_uid_to_split"][uid]],
                    "benchmarks": splits["take_uid_to_benchmark"][uid],
                }
            )
    takes_json = _paths(release, bucket_prefix, [release.takes_json])
    parts: dict[str, list[Json]] = {
        "metadata": [{"uid": "takes", "paths": takes_json, "splits": None, "benchmarks": None}],
        "annotations": annotations,
        "takes": takes,
        f"downscaled_takes/{DOWNSCALED_448}": small_takes,
    }
    manifests = {}
    for part, entries in parts.items():
        manifests[part] = out_dir / part / "manifest.json"
        write_atomic(manifests[part], json.dumps(entries, indent=1, ensure_ascii=False))
    return manifests


def _paths(
    release: Release,
    bucket_prefix: str,
    paths: Sequence[Path],
    universities: Sequence[str] | None = None,
) -> list[Json]:
    rows = []
    for path in paths:
        relative = path.relative_to(release.path).as_posix()
        view = ("ego" if "aria" in path.stem else "exo") if path.suffix == ".mp4" else None
        rows.append(
            {
                "source_path": f"{bucket_prefix.rstrip('/')}/{relative}",
                "relative_path": relative,
                "views": [view] if view else None,
                "universities": universities,
                "file_type": path.suffix.lstrip("."),
                "size": path.stat().st_size,
                "checksum": None,
            }
        )
    return rows
