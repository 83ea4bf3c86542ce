"""The model's benchmark runs through every row, on whatever device there is."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("bench_model", SCRIPTS / "bench_model.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setattr(sys, "path", list(sys.path))  # the script adds its folder
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_every_row_says_how_many_times_the_plain_one_it_is(
    benchmark: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.set_num_threads(1)
    words = "--backbone rgb_grid --feature-precision bf16 --frames 1 --objects 2 --proposals 4"
    words += " --steps 1 --takes 1 --plain-pairs 2 --fastsam none"
    benchmark.main(words.split())
    shown = capsys.readouterr().out
    for row in (
        "pooling (masks/s)",
        "features (images/s)",
        "training on the fly (pairs/s)",
        "training cached (pairs/s)",
        "prediction on the fly (pairs/s)",
        "prediction cached (pairs/s)",
    ):
        (line,) = [line for line in shown.splitlines() if line.startswith(row)]
        ours, plain, times = map(float, line.removeprefix(row).split())
        assert times == pytest.approx(ours / plain, rel=0.05, abs=0.06)
