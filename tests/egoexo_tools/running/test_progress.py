"""A log file gets lines of progress without carriage returns."""

import io
import subprocess
import sys
import time

import pytest

from egoexo_tools.running.progress import ProgressLines, duration_text, open_progress, skip_progress


def lines(stream: io.StringIO) -> list[str]:
    return stream.getvalue().splitlines()


def test_there_is_a_line_at_the_start_and_one_at_the_end() -> None:
    stream = io.StringIO()
    with ProgressLines(3, "frames", "units", stream=stream) as bar:
        assert lines(stream) == ["frames: 0 of 3 units"]
        bar.update()
        bar.update(2)
    assert lines(stream)[1:] == ["frames: 3 of 3 units in 0 s"]


def test_lines_are_printed_while_one_unit_takes_long() -> None:
    stream = io.StringIO()
    with ProgressLines(8, "train", "pairs", 4, seconds=0.02, stream=stream) as bar:
        while len(lines(stream)) < 2:
            time.sleep(0.005)
        assert lines(stream)[1] == "train: 4 of 8 pairs, 0 s so far"
        bar.set_postfix(loss="0.5")
        bar.update(2)
        count = len(lines(stream))
        while len(lines(stream)) < count + 2:
            time.sleep(0.005)
        assert lines(stream)[-1].startswith("train: 6 of 8 pairs, ")
        assert lines(stream)[-1].endswith("/s, 0 s left, loss 0.5")
    final_lines = lines(stream)
    time.sleep(0.1)
    assert lines(stream) == final_lines, "the thread still runs after the end"


def test_bytes_are_printed_in_gigabytes(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    with open_progress(total=2_500_000_000, desc="download", unit="B", is_bytes=True) as bar:
        bar.update(1_250_000_000)
    assert lines(stream) == ["download: 0.00 of 2.50 GB", "download: 1.25 of 2.50 GB in 0 s"]


def test_skipped_progress_does_not_change_the_rate() -> None:
    stream = io.StringIO()
    with ProgressLines(8, "download", "units", seconds=0.02, stream=stream) as bar:
        skip_progress(bar, 4)
        while len(lines(stream)) < 2:
            time.sleep(0.005)
    assert lines(stream)[1] == "download: 4 of 8 units, 0 s so far"


def test_quiet_prints_nothing_and_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    quiet, terminal = io.StringIO(), Terminal()
    monkeypatch.setattr(sys, "stderr", quiet)
    with open_progress(total=1, desc="x", unit="unit", quiet=True) as bar:
        bar.update()
    monkeypatch.setattr(sys, "stderr", terminal)
    with open_progress(total=1, desc="x", unit="unit") as bar:
        bar.update()
    assert quiet.getvalue() == ""
    assert "100%" in terminal.getvalue() and "\r" in terminal.getvalue()


@pytest.mark.slow
def test_a_command_in_a_pipe_prints_no_carriage_returns(tmp_path: object) -> None:
    words = ["synthesize", f"{tmp_path}/release", "--train", "1", "--val", "0", "--test", "0"]
    words += ["--scale", "0.05", "--frames", "1", "--workers", "1"]
    process = subprocess.run(
        [sys.executable, "-m", "egoexo_tools.cli", *words], capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr
    assert "\r" not in process.stderr
    assert process.stderr.splitlines()[0] == "synthesize: 0 of 1 takes"


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.4, "0 s"), (59.4, "59 s"), (185, "3 min 05 s"), (7800, "2 h 10 min")]
)
def test_durations_have_at_most_two_units(seconds: float, words: str) -> None:
    assert duration_text(seconds) == words
