"""Claimed units are recognised as the stage's own."""

from pathlib import Path

import cv2
import numpy as np

from egoexo_tools.importing.images import run_import_images
from egoexo_tools.layout import DatasetRoot
from egoexo_tools.running.records import RunOptions

INLINE = RunOptions(executor="inline", quiet=True)


def test_an_interrupted_take_belongs_to_the_stage(tmp_path: Path) -> None:
    """Killed between a take's last manifest part and its status."""
    for camera in ("ego", "exo"):
        folder = tmp_path / "photos" / "first" / camera / "0"
        folder.mkdir(parents=True)
        picture = np.full((48, 64, 3), 90, np.uint8)
        cv2.imwrite(str(folder.with_suffix(".jpg")), picture)
        picture[:] = 0
        picture[5:20, 5:20] = 255
        cv2.imwrite(str(folder / "cup.png"), picture)
    root = DatasetRoot(tmp_path / "root")
    run_import_images(root, tmp_path / "photos", run=INLINE).check()
    root.status("import", "first").unlink()
    assert run_import_images(root, tmp_path / "photos", run=INLINE).check().done == 1
