"""Helpers that read synthetic releases, and a scene to render."""

import json
from pathlib import Path
from typing import Any

import av
import numpy as np

from egoexo_tools.layout import Release
from egoexo_tools.synthetic import SyntheticOptions
from egoexo_tools.synthetic.cameras import ExoPlace, HeadMotion
from egoexo_tools.synthetic.scene import Scene
from egoexo_tools.vocab import Split

ONE_TAKE = SyntheticOptions(
    scale=0.1, train_takes=1, val_takes=0, test_takes=0, annotated_frames=2, objects_per_take=6
)


def decode(path: Path) -> list[np.ndarray]:
    """Every frame of a video, in order of presentation."""
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def load(path: Path) -> Any:
    return json.loads(path.read_bytes())


def relations(release: Release) -> dict[str, Any]:
    """take_uid → annotation, over the three splits."""
    return {
        uid: take
        for split in Split
        for uid, take in load(release.relations_json(split))["annotations"].items()
    }


def tracks(release: Release) -> list[tuple[str, str, str, dict[str, Any]]]:
    """(take_name, object, camera, track) of every take that takes.json holds."""
    uids = {take["take_uid"] for take in load(release.takes_json)}
    return [
        (take["take_name"], name, camera, track)
        for uid, take in relations(release).items()
        if uid in uids
        for name, cameras in take["object_masks"].items()
        for camera, track in cameras.items()
    ]


def draw_scene(seed: int) -> tuple[Scene, ExoPlace, HeadMotion]:
    rng = np.random.default_rng(seed)
    exo, head = ExoPlace.draw(rng, 0), HeadMotion.draw(rng)
    return Scene.draw(rng, count=8, seconds=5, away=np.array([0.0, -1.0])), exo, head
