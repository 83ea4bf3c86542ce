"""bench_lm_eec.py compares both trackers and times a training step."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "scripts"))
import bench_lm_eec  # noqa: E402


@pytest.mark.slow
def test_both_trackers_give_the_same_masks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = f"--objects 1 --frames 2 --repeat 1 --clips 1 --steps 1 --folder {tmp_path}"
    bench_lm_eec.main(arguments.split())
    output = capsys.readouterr().out
    assert "4 tracks, 8 object-frames, 6 pictures" in output
    assert "IoU of the two masks: mean 1.0000, lowest 1.0000" in output
    assert (tmp_path / "bench_lm_eec.txt").read_text() == output
