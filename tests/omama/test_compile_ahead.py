"""What is compiled ahead is what the chain asks for."""

import os
import subprocess
import sys
from pathlib import Path

ASK = """
import numpy as np
from egoexo_tools.evaluation import metric_loops
from egoexo_tools.evaluation.metrics import score_masks
from egoexo_tools.masks.columns import MaskColumns
from egoexo_tools.masks.rle import MaskRle
from egoexo_tools.proposers import grouping, superpixels
from egoexo_tools.proposers.regions import regions

picture = np.random.default_rng(0).integers(0, 255, (90, 120, 3), np.uint8)
found = regions(picture)
masks = MaskColumns.of([MaskRle.encode(picture[:, :, channel] > 90) for channel in range(3)])
flags = np.array([True, True, False]), np.array([False, True, True])
score_masks(masks, masks, size=(90, 120), diagonal=150.0, visible=flags[0], follows=flags[1])
loops = [metric_loops.score, grouping._group, grouping._fill, superpixels._join]
print(*(sum(loop.stats.cache_misses.values()) for loop in loops))
"""


def test_the_loops_lie_in_the_cache(tmp_path: Path) -> None:
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    ahead = "from omama.compile_ahead import compile_late_loops; compile_late_loops()"
    for code in (ahead, ASK):
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
    assert done.stdout.split() == ["0"] * 4
