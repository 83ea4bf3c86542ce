"""The plan of a download: which files will be fetched and which not, before the first video.

Joins four lists: the relations (which cameras are annotated), the split (which takes are used),
takes.json (which takes exist) and the download manifests (which files exist, and their size). Names
in a manifest are only compared with the paths that the layout expects, so that no manifest can make
the download write elsewhere.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from egoexo_tools.aliases import Row
from egoexo_tools.disk import size_text
from egoexo_tools.download.s3 import S3, ManifestEntry
from egoexo_tools.download.transfer import RemoteFile
from egoexo_tools.errors import DataError
from egoexo_tools.layout import RESOLUTIONS, Release
from egoexo_tools.release.annotations import cameras_left_out
from egoexo_tools.release.plan import PlannedTake, plan_ingest
from egoexo_tools.release.survey import VIDEO_PARTS
from egoexo_tools.running.shard import Shard
from egoexo_tools.vocab import Split, View, view_of


@dataclass(frozen=True)
class TakeFilter:
    """Which takes to download; an empty field selects all.

    `select` has many more criteria (`TakeCriteria`); they reach a download as its `split_file`.
    """

    split_file: Path | None = None
    splits: tuple[Split, ...] = ()
    take_uids: tuple[str, ...] = ()
    scenarios: tuple[str, ...] = ()


@dataclass
class DownloadPlan:
    """The files to fetch, and rows of the exclusions manifest for the others."""

    annotations: tuple[RemoteFile, ...] = ()
    """takes.json, splits.json and the relations files."""
    videos: dict[str, list[RemoteFile]] = field(default_factory=dict)
    """take_uid → videos of its annotated cameras, for each take with at least one."""
    exclusions: list[Row] = field(default_factory=list)
    annotation_bytes: int = 0
    """Of the selected takes, in the relations files."""
    selection: TakeFilter = TakeFilter()
    resolution: str = "full"

    @property
    def short_side(self) -> int | None:
        """Of the videos, in pixels; None: full size."""
        return RESOLUTIONS[self.resolution]

    @property
    def files(self) -> list[RemoteFile]:
        return [*self.annotations, *self.video_files]

    @property
    def video_files(self) -> list[RemoteFile]:
        return [file for files in self.videos.values() for file in files]

    def for_shard(self, shard: Shard) -> "DownloadPlan":
        """The plan with the videos of the takes in one shard only."""
        return replace(
            self, videos={u: files for u, files in self.videos.items() if shard.contains(u)}
        )

    def text(self) -> str:
        """The plan as the user reads it; sizes in units of 1000."""
        on_disk = sum(min(file.bytes_on_disk(), file.size) for file in self.files)
        total = sum(file.size for file in self.files)
        views = Counter(view_of(file.camera or "") for file in self.video_files)
        videos = len(self.video_files)
        lines = [
            f"takes    {len(self.videos):,}",
            f"cameras  {videos:,} ({views[View.EGO]:,} ego, {views[View.EXO]:,} exo)",
            f"files    {len(self.files):,} ({videos:,} videos, "
            f"{len(self.annotations)} annotation files)",
            f"size     {size_text(total)}, {size_text(total - on_disk)} of it to fetch",
        ]
        reasons = Counter(
            ("camera" if row.get("camera") else "take", row["reason"]) for row in self.exclusions
        )
        if not reasons:
            return "\n".join([*lines, "left out nothing"])
        lines.append(f"left out {len(self.exclusions):,}, see exclusions:")
        for (kind, reason), count in reasons.most_common(8):
            lines.append(f"  {count:,} {kind}{'s' if count > 1 else ''}: {reason}")
        if len(reasons) > 8:
            lines.append(f"  and {len(reasons) - 8} more reasons")
        return "\n".join(lines)


def annotation_files(s3: S3, release: Release) -> tuple[RemoteFile, ...]:
    """takes.json, splits.json and the relations files, which every download needs.

    The official downloader's filters drop the relations files. Raises DataError where the
    manifests list no takes.json or no relations file.
    """
    takes = _by_name(release, [release.takes_json])
    annotations = _by_name(
        release, [release.splits_json, *(release.relations_json(split) for split in Split)]
    )
    entries = s3.list_part("metadata", takes) | s3.list_part("annotations", annotations)
    if not set(takes) <= set(entries):
        raise DataError(f"the manifests of {s3.source} list no takes.json; check --source")
    if not any("relations_" in name for name in entries):
        raise DataError(
            f"the manifests of {s3.source} list no annotations/relations_*.json; check --source"
        )
    return tuple(
        _remote_file(s3, entries[name], path)
        for name, path in (takes | annotations).items()
        if name in entries
    )


def plan_download(
    s3: S3,
    release: Release,
    annotations: Sequence[RemoteFile],
    *,
    selection: TakeFilter = TakeFilter(),
    resolution: str = "full",
) -> DownloadPlan:
    """Join the annotation files, which are on disk by now, with the manifest of the videos.

    Raises DataError where there is nothing to download, and SettingsError for a take or scenario
    that the release does not have.
    """
    short_side = RESOLUTIONS[resolution]
    ingest_plan = plan_ingest(release, split_file=selection.split_file)
    takes = ingest_plan.select(
        take_uids=selection.take_uids or None,
        scenarios=selection.scenarios or None,
        splits=selection.splits or tuple(Split),
    )
    plan = DownloadPlan(tuple(annotations), selection=selection, resolution=resolution)
    for row in ingest_plan.exclusions:
        if not selection.take_uids or row["take_uid"] in selection.take_uids:
            plan.exclusions.append({"camera": None, **row})
    videos: dict[str, tuple[str, str, Path]] = {}
    for take in takes:
        plan.annotation_bytes += take.source.end - take.source.start
        for camera in _needed_cameras(take, plan.exclusions):
            path = release.video(take.take.take_name, camera, short_side=short_side)
            name = path.relative_to(release.path).as_posix()
            videos[name] = (take.take.take_uid, camera, path)
    part = VIDEO_PARTS[short_side]
    # The manifest of the videos is large, and not needed where no take is left.
    entries = s3.list_part(part, videos) if videos else {}
    for name, (take_uid, camera, path) in videos.items():
        if name in entries:
            file = _remote_file(s3, entries[name], path)
            file = replace(file, take_uid=take_uid, camera=camera)
            plan.videos.setdefault(take_uid, []).append(file)
        else:
            reason = f"no video in the manifest of {part}"
            plan.exclusions.append({"take_uid": take_uid, "camera": camera, "reason": reason})
    if not plan.videos:
        raise DataError(f"no video is left to download:\n{plan.text()}")
    return plan


def _needed_cameras(take: PlannedTake, exclusions: list[Row]) -> list[str]:
    """The cameras whose frames pairs can need, ego first; the others become exclusions."""
    take_uid = take.take.take_uid
    try:
        relations = take.source.read()
    except DataError as error:
        exclusions.append({"take_uid": take_uid, "camera": None, "reason": str(error)})
        return []
    left_out = cameras_left_out(relations.object_masks, take.take.cameras)
    needed: set[str] = set()
    for tracks in relations.object_masks.values():
        cameras = {
            camera
            for camera, track in tracks.items()
            if camera not in left_out and (track.annotation or track.annotated_frames)
        }
        if {view_of(camera) for camera in cameras} == set(View):
            needed |= cameras
    # setdefault: a camera that cannot be used at all keeps that reason.
    for tracks in relations.object_masks.values():
        for camera in tracks:
            if camera not in needed:
                left_out.setdefault(camera, "none of its objects is annotated in both views")
    for camera, reason in left_out.items():
        exclusions.append({"take_uid": take_uid, "camera": camera, "reason": reason})
    return sorted(needed, key=lambda camera: (view_of(camera), camera))


def _by_name(release: Release, paths: Sequence[Path]) -> dict[str, Path]:
    return {path.relative_to(release.path).as_posix(): path for path in paths}


def _remote_file(s3: S3, entry: ManifestEntry, path: Path) -> RemoteFile:
    size = s3.size(entry.source_url) if entry.size is None else entry.size
    return RemoteFile(entry.source_url, path, size)
