"""Reading of scored runs: missing, damaged and equally named files."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from egoexo_tools.errors import DataError
from egoexo_tools.report.causes import count_causes
from egoexo_tools.report.charts import cause_bar
from egoexo_tools.report.page import write_report
from egoexo_tools.report.runs import read_run, read_runs


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({}, "is not a scored run"),
        ({"summary.json": "{"}, "is not JSON"),
        ({"summary.json": "[]"}, "it is not an object"),
        ({"summary.json": '{"iou": NaN}'}, "it contains NaN"),
        ({"summary.json": '{"protocol": "official", "split": 3}'}, "'split' is missing or not tex"),
        ({"scores.parquet": "x"}, "not a readable Parquet file"),
    ],
)
def test_a_folder_that_is_not_a_run_is_rejected(
    tmp_path: Path, files: dict[str, str], reason: str
) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=reason):
        read_run(tmp_path)


@pytest.mark.parametrize("part", ["visibility", "ceilings", "over_time"])
def test_a_damaged_part_of_a_summary_is_rejected(
    runs: list[Path], tmp_path: Path, part: str
) -> None:
    summary = json.loads((runs[0] / "summary.json").read_bytes())
    summary[part] = {"x": [1]}
    run = tmp_path / "ego2exo"
    run.mkdir()
    shutil.copy(runs[0] / "predictions.parquet", run)
    (run / "summary.json").write_text(json.dumps(summary))
    with pytest.raises(DataError, match="is damaged"):
        write_report([run], tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_runs_of_one_name_keep_their_own_numbers(runs: list[Path], tmp_path: Path) -> None:
    """The same experiment in two roots; in the second, every prediction is right."""
    ours, theirs = (tmp_path / root / "runs" / "ego2exo" for root in ("first", "second"))
    shutil.copytree(runs[0], ours)
    shutil.copytree(runs[0], theirs)
    path = theirs / "scores.parquet"
    table = pq.read_table(path)
    right = pa.array(np.ones(len(table)), table.schema.field("iou").type)
    column = table.schema.get_field_index("iou")
    pq.write_table(table.set_column(column, table.schema.field("iou"), right), path)
    first, second = read_runs([ours, theirs])
    assert (first.name, second.name) == ("first/runs/ego2exo", "second/runs/ego2exo")
    assert first.label != second.label
    (single,) = read_runs([theirs])
    assert single.name == "ego2exo"
    write_report([ours, theirs], tmp_path / "report.html")
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    for run in (first, second):
        counts = count_causes(run.scores, chooses_proposals=run.stamp.chooses_proposals)
        bar = cause_bar(run)
        row = html[html.index(str(bar)) :].partition("</tr>")[0]
        numbers = [int(number) for number in re.findall(r'<td class="number">(\d+)<', row)]
        assert [number for number in numbers if number] == list(counts.values())


def test_numbers_that_cannot_be_drawn(runs: list[Path], tmp_path: Path) -> None:
    run = tmp_path / "ego2exo"
    run.mkdir()
    summary = json.loads((runs[0] / "summary.json").read_bytes())
    (run / "summary.json").write_text(json.dumps(summary))
    lines = ('{"step": 1, "loss": 2.5}', '{"step": 2, "loss": NaN}', '{"step": 3, "loss": 1.5}')
    odd = ('{"step": Infinity, "loss": 1}', '{"step": 1%s, "loss": 1}' % ("0" * 400))
    (run / "log.jsonl").write_text("\n".join((*lines, *odd)))
    write_report([run], tmp_path / "report.html")
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "training loss of" in html and "log.jsonl has 2 broken lines" in html
    for part in summary["visibility"]["calibration"]["bins"]:
        part["samples"] = 0
    (run / "summary.json").write_text(json.dumps(summary))
    with pytest.raises(DataError, match="is damaged"):
        write_report([run], tmp_path / "report.html")


def test_missing_files_are_listed_on_the_page(runs: list[Path], tmp_path: Path) -> None:
    folder = tmp_path / "root" / "runs" / "ego2exo"
    folder.mkdir(parents=True)
    page = tmp_path / "report.html"

    def written() -> str:
        write_report([folder], page)
        return page.read_text(encoding="utf-8")

    shutil.copy(runs[0] / "summary.json", folder)
    html = written()
    for sentence in (
        "no scores.parquet: no distributions, causes and pictures",
        "scored under the official protocol only",
        "There are no pictures",
        "No tracks: there is no scores.parquet",
    ):
        assert sentence in html
    shutil.copy(runs[0] / "scores.parquet", folder)
    (folder / "summary.json").unlink()
    (folder / "log.jsonl").write_text('{"step": 1, "loss": 2}\n{"step": 2, "los')
    html = written()
    summary = json.loads((runs[0] / "summary.json").read_bytes())
    assert f"<b>{summary['iou']:.3f}</b>" in html
    assert "computed from scores.parquet" in html
    assert "log.jsonl has 1 broken lines" in html
    assert "is not in a dataset root" in html
    (tmp_path / "root" / "manifests").mkdir()
    html = written()
    assert "frames of 6 of 6 samples shown are not on disk" in html
    assert "no predictions.parquet: pictures show no predicted masks" in html
    assert "pictures without true masks" in html
    shutil.copy(runs[0] / "predictions.parquet", folder)
    (folder / "log.jsonl").unlink()
    assert "no log.jsonl: no training curves" in written()
