"""Compiled loops: a change in a callee's file is seen, and a cache is not required."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

CALLEE = """
from egoexo_tools.compiled import compiled

@compiled
def add(x: float) -> float:
    return x + {}
"""
CALLER = """
import callee
from callee import add
from egoexo_tools.compiled import compiled

@compiled
def twice(x: float) -> float:
    return 2 * add(x)
"""


def run(folder: Path, code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(folder), *filter(None, sys.path)])
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": path, **environment},
    )


@pytest.mark.slow
def test_a_change_in_a_callee_is_compiled_again(tmp_path: Path) -> None:
    cache = str(tmp_path / "cache")
    (tmp_path / "caller.py").write_text(CALLER)
    code = (
        "import caller; result = caller.twice(1.0); stats = caller.twice.stats; "
        "print(result, sum(stats.cache_hits.values()))"
    )
    shown = []
    for number in (1, 1, 9, 1):
        (tmp_path / "callee.py").write_text(CALLEE.format(number))
        shown.append(run(tmp_path, code, NUMBA_CACHE_DIR=cache, PYTHONDONTWRITEBYTECODE="1"))
    # 2 * (1 + 1), from the cache the second time; 2 * (1 + 9); and the first again.
    texts = [result.stdout.split() for result in shown]
    assert [text[0] for text in texts] == ["4.0", "4.0", "20.0", "4.0"]
    assert [text[1] for text in texts[:3]] == ["0", "1", "0"]


@pytest.mark.slow
def test_without_a_folder_for_the_cache_loops_run_uncached(tmp_path: Path) -> None:
    # Root may write anywhere, so numba's own search for a folder is made to fail.
    code = (
        "from numba.core import caching; caching.CacheImpl._locator_classes = []; "
        "from egoexo_tools.masks.bitmaps import iou_from_areas; "
        "import numpy as np; print(iou_from_areas(np.int64(1), np.int64(2), np.int64(1)))"
    )
    result = run(tmp_path, code)
    assert result.stdout.startswith("0.49999")
    assert result.stderr.count("set NUMBA_CACHE_DIR") == 1
