"""The sample lists of VGGT-S."""

import json
from pathlib import Path

from exports import export, make_benchmark_root, read_left_out


def test_samples_are_listed_and_other_sizes_are_left_out(tmp_path: Path) -> None:
    root = make_benchmark_root(tmp_path / "root")
    out = export(root, "vggt-s")
    assert sorted(json.loads((out / "val_obj.json").read_text())) == [
        f"t//aria01_214-1//cam01//{name}//{idx:06d}"
        for name, idx in (("cup", 0), ("cup", 30), ("lid 10", 0), ("lid 10", 30), ("lid 9", 0))
    ]
    assert json.loads((out / "processed" / "split.json").read_text())["val"] == ["t"]
    masks = json.loads((out / "processed" / "t" / "annotation.json").read_text())["masks"]
    assert set(masks["cup"]) == {"aria01_214-1", "cam01"}
    reasons = {row["reason"] for row in read_left_out(out)}
    assert "its frame has 70x90 pixels, that code needs 960x540 or 540x960" in reasons
