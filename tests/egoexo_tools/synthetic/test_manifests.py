"""Download manifests list the files of a release."""

from pathlib import Path

from synthetic_release import load

from egoexo_tools.layout import Release
from egoexo_tools.synthetic import write_manifests


def test_download_manifests_list_every_file_with_its_size(
    tiny_release: Release, tmp_path: Path
) -> None:
    manifests = write_manifests(tiny_release, "s3://bucket/v2/", tmp_path)
    rows = [row for path in manifests.values() for entry in load(path) for row in entry["paths"]]
    files = {row["relative_path"]: row["size"] for row in rows}
    on_disk = {
        path.relative_to(tiny_release.path).as_posix(): path.stat().st_size
        for path in tiny_release.path.rglob("*.*")
        if path.is_file() and path.name != "synthetic.json"
    }
    assert files == on_disk
    assert all(row["source_path"] == f"s3://bucket/v2/{row['relative_path']}" for row in rows)
    assert {row["checksum"] for row in rows} == {None}
    annotations = load(manifests["annotations"])
    benchmarks = {entry["uid"]: entry["benchmarks"] for entry in annotations}
    assert benchmarks["relations_train"] == ["relations"] and benchmarks["splits"] is None
