import json
from pathlib import Path

import pytest
from downloads import download, drop_from_manifest, source_of
from s3_server import S3Server

from egoexo_tools.layout import DatasetRoot, Release
from egoexo_tools.manifests import read_manifest


@pytest.mark.usefixtures("aws")
def test_a_plan_names_the_files_and_the_reasons_against_others(
    s3_server: S3Server, tiny_release: Release, own_bucket: str, tmp_path: Path
) -> None:
    take = json.loads(tiny_release.takes_json.read_bytes())[0]
    video = tiny_release.video(
        take["take_name"], take["frame_aligned_videos"]["cam01"]["0"]["cam_id"]
    )
    relative_path = video.relative_to(tiny_release.path).as_posix()
    drop_from_manifest(s3_server, own_bucket, "takes", relative_path)
    root = DatasetRoot(tmp_path / "root")
    code, output = download(
        tmp_path / "release", source_of(own_bucket), "--dry-run", "--root", str(root.path)
    )
    assert code == 0, output
    assert "cameras  8 (3 ego, 5 exo)\nfiles    13 (8 videos, 5 annotation files)" in output
    assert "1 camera: no video in the manifest of takes" in output
    assert not list((tmp_path / "release").rglob("*.mp4"))
    rows = read_manifest(root, "exclusions").to_pylist()
    assert {"take_uid": take["take_uid"], "camera": "cam01"}.items() <= rows[-1].items()
    assert rows[-1]["reason"] == "no video in the manifest of takes"
