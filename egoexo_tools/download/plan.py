"""What a download will bring and what it will not, known before the first video's first byte.

Joins four lists: relations (which cameras are annotated), the split (which takes are used),
takes.json (which takes exist) and the download manifests (which files there are, and their
size). A name in a manifest is only ever compared with the paths that the layout expects, so no
manifest can write elsewhere.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from egoexo_tools.disk import size_text
from egoexo_tools.download.s3 import S3, ManifestEntry
from egoexo_tools.download.transfer import RemoteFile
from egoexo_tools.errors import DataError
from egoexo_tools.layout import DOWNSCALED_448, RESOLUTIONS, Release
from egoexo_tools.release.annotations import cameras_left_out
from egoexo_tools.release.plan import IngestPlan, PlannedTake, plan_ingest
from egoexo_tools.release.take_relations import TakeRelations
from egoexo_tools.running.shard import Shard
from egoexo_tools.vocab import Split, View, view_of

_VIDEO_PARTS = {None: "takes", DOWNSCALED_448: f"downscaled_takes/{DOWNSCALED_448}"}


@dataclass(frozen=True)
class TakeFilter:
    """Which takes are wanted; empty means all."""

    split_file: Path | None = None
    splits: tuple[Split, ...] = ()
    take_uids: tuple[str, ...] = ()
    scenarios: tuple[str, ...] = ()


@dataclass
class DownloadPlan:
    """The files that will come, and rows of the exclusions manifest for what will not."""

    annotations: tuple[RemoteFile, ...] = ()
    """takes.json, splits.json and the relations files."""
    videos: dict[str, list[RemoteFile]] = field(default_factory=dict)
    """take_uid → its annotated cameras' videos, for every take of which something comes."""
    exclusions: list[dict[str, Any]] = field(default_factory=list)
    annotation_bytes: int = 0
    """Of the selected takes, in the relations files."""
    selection: TakeFilter = TakeFilter()
    """What was asked for."""
    resolution: str = "full"

    @property
    def short_side(self) -> int | None:
        """Of the videos that come; None: as they were recorded."""
        return RESOLUTIONS[self.resolution]

    @property
    def files(self) -> list[RemoteFile]:
        return [*self.annotations, *self.video_files]

    @property
    def video_files(self) -> list[RemoteFile]:
        return [file for files in self.videos.values() for file in files]

    def part(self, shard: Shard) -> "DownloadPlan":
        """The same with the videos of the takes that are in a shard."""
        mine = {uid: files for uid, files in self.videos.items() if shard.contains(uid)}
        return replace(self, videos=mine)

    def text(self) -> str:
        """The plan as the user reads it; sizes in units of 1000."""
        here = sum(min(file.bytes_on_disk(), file.size) for file in self.files)
        total = sum(file.size for file in self.files)
        views = Counter(view_of(file.camera or "") for file in self.video_files)
        videos = len(self.video_files)
        lines = [
            f"takes    {len(self.videos):,}",
            f"cameras  {videos:,} ({views[View.EGO]:,} ego, {views[View.EXO]:,} exo)",
            f"files    {len(self.files):,} ({videos:,} videos, "
            f"{len(self.annotations)} annotation files)",
            f"size     {size_text(total)}, {size_text(total - here)} of it to come",
        ]
        reasons = Counter((_kind(row), row["reason"]) for row in self.exclusions)
        if not reasons:
            return "\n".join([*lines, "left out nothing"])
        lines.append(f"left out {len(self.exclusions):,}, see exclusions:")
        for (kind, reason), count in reasons.most_common(8):
            lines.append(f"  {count:,} {kind}{'s' if count > 1 else ''}: {reason}")
        if len(reasons) > 8:
            lines.append(f"  and {len(reasons) - 8} more reasons")
        return "\n".join(lines)


def annotation_files(s3: S3, release: Release) -> tuple[RemoteFile, ...]:
    """takes.json, splits.json and the relations files, which come whatever is selected.

    The stock filters drop the relations files. Raises DataError where there is no takes.json or
    no relations file to be had.
    """
    takes = _expected(release, [release.takes_json])
    others = _expected(
        release, [release.splits_json, *(release.relations_json(split) for split in Split)]
    )
    listed = s3.list_part("metadata", takes) | s3.list_part("annotations", others)
    if not set(takes) <= set(listed):
        raise DataError(f"the manifests of {s3.source} list no takes.json; check --source")
    if not any("relations_" in name for name in listed):
        raise DataError(
            f"the manifests of {s3.source} list no annotations/relations_*.json; check --source"
        )
    return tuple(
        _remote(s3, listed[name], path) for name, path in (takes | others).items() if name in listed
    )


def plan_download(
    s3: S3,
    release: Release,
    annotations: Sequence[RemoteFile],
    *,
    selection: TakeFilter = TakeFilter(),
    resolution: str = "full",
) -> DownloadPlan:
    """Join what was fetched (`annotations`) with the manifest of the videos.

    Raises DataError where nothing is left to download, and SettingsError for a take or scenario
    that the release does not have.
    """
    short_side = RESOLUTIONS[resolution]
    offered = plan_ingest(release, split_file=selection.split_file)
    takes = _selected(offered, selection)
    plan = DownloadPlan(tuple(annotations), selection=selection, resolution=resolution)
    for row in offered.exclusions:
        if not selection.take_uids or row["take_uid"] in selection.take_uids:
            plan.exclusions.append({"camera": None, **row})
    wanted: dict[str, tuple[PlannedTake, str, Path]] = {}
    for take in takes:
        plan.annotation_bytes += take.source.end - take.source.start
        for camera in _cameras(take, plan.exclusions):
            path = release.video(take.take.take_name, camera, short_side=short_side)
            wanted[path.relative_to(release.path).as_posix()] = (take, camera, path)
    listed = s3.list_part(_VIDEO_PARTS[short_side], wanted) if wanted else {}
    for name, (take, camera, path) in wanted.items():
        uid = take.take.take_uid
        if name in listed:
            file = _remote(s3, listed[name], path, take_uid=uid, camera=camera)
            plan.videos.setdefault(uid, []).append(file)
        else:
            reason = f"no video in the manifest of {_VIDEO_PARTS[short_side]}"
            plan.exclusions.append({"take_uid": uid, "camera": camera, "reason": reason})
    if not plan.videos:
        raise DataError(f"there is no video to download:\n{plan.text()}")
    return plan


def _selected(offered: IngestPlan, selection: TakeFilter) -> list[PlannedTake]:
    takes = offered.select(
        take_uids=selection.take_uids or None, scenarios=selection.scenarios or None
    )
    return [take for take in takes if not selection.splits or take.split in selection.splits]


def _cameras(take: PlannedTake, exclusions: list[dict[str, Any]]) -> list[str]:
    """The cameras whose pictures pairs can need, ego first; the others are excluded."""
    uid = take.take.take_uid
    try:
        relations = take.source.read()
    except DataError as error:
        exclusions.append({"take_uid": uid, "camera": None, "reason": str(error)})
        return []
    left_out = cameras_left_out(relations.object_masks, take.take.cameras)
    used = _used(relations, left_out)
    left_out |= {
        camera: "none of its objects is annotated in both views"
        for cameras in relations.object_masks.values()
        for camera in cameras
        if camera not in used and camera not in left_out
    }
    for camera, reason in left_out.items():
        exclusions.append({"take_uid": uid, "camera": camera, "reason": reason})
    return sorted(used, key=lambda camera: (view_of(camera), camera))


def _used(relations: TakeRelations, left_out: Mapping[str, str]) -> set[str]:
    """The cameras of the objects that are annotated in an ego and in an exo camera."""
    used: set[str] = set()
    for tracks in relations.object_masks.values():
        cameras = {
            camera
            for camera, track in tracks.items()
            if camera not in left_out and (track.annotation or track.annotated_frames)
        }
        if {view_of(camera) for camera in cameras} == set(View):
            used |= cameras
    return used


def _expected(release: Release, paths: Sequence[Path]) -> dict[str, Path]:
    return {path.relative_to(release.path).as_posix(): path for path in paths}


def _remote(
    s3: S3,
    listed: ManifestEntry,
    path: Path,
    *,
    take_uid: str | None = None,
    camera: str | None = None,
) -> RemoteFile:
    size = s3.size(listed.source_url) if listed.size is None else listed.size
    return RemoteFile(listed.source_url, path, size, take_uid=take_uid, camera=camera)


def _kind(row: Mapping[str, Any]) -> str:
    return "camera" if row.get("camera") else "take"
