"""bench_model.py measures every row, on a CPU or a GPU."""

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
def test_every_row_has_the_ratio_to_the_plain_implementation(
    benchmark: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.set_num_threads(1)
    arguments = "--backbone rgb_grid --feature-precision bf16 --frames 1 --objects 2 --proposals 4"
    arguments += " --steps 1 --takes 1 --plain-pairs 2 --fastsam none"
    benchmark.main(arguments.split())
    output = capsys.readouterr().out
    for row in (
        "pooling (masks/s)",
        "features (images/s)",
        "training on the fly (pairs/s)",
        "training cached (pairs/s)",
        "prediction on the fly (pairs/s)",
        "prediction cached (pairs/s)",
    ):
        (line,) = [line for line in output.splitlines() if line.startswith(row)]
        ours, plain, ratio = map(float, line.removeprefix(row).split())
        assert ratio == pytest.approx(ours / plain, rel=0.05, abs=0.06)
