"""What pictures took is given back, where the C library would keep it."""

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import sys
from pathlib import Path
import numpy as np
from egoexo_tools.video.memory import give_back_pictures

def resident_mb():
    lines = Path("/proc/self/status").read_text().splitlines()
    return sum(int(line.split()[1]) // 1024 for line in lines if line.startswith("VmRSS"))

if sys.argv[1] == "given back":
    assert give_back_pictures()
np.ones(24 << 20, np.uint8)  # freed at once: from here on glibc calls only larger blocks large
start, pinned = resident_mb(), []
for _ in range(6):
    pictures = [np.ones(12 << 20, np.uint8) for _ in range(4)]
    pinned.append(np.ones(100_000, np.uint8))  # something small that outlives them
    pictures.clear()
print(resident_mb() - start)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator")
def test_freed_pictures_leave_nothing_behind() -> None:
    left = {
        how: int(
            subprocess.run(
                [sys.executable, "-c", PROGRAM, how], check=True, capture_output=True, text=True
            ).stdout
        )
        for how in ("kept", "given back")
    }
    assert left["given back"] < 10
    assert left["kept"] > left["given back"] + 20, "glibc gives back by itself: take it out"
