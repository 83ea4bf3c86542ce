"""Made root.tar.gz, once, with the code of commit 48f1fe8: `python make.py` in that checkout's
`tests` folder, its packages on the path. It does not run on later code, and need not."""

import sys
import tarfile
from pathlib import Path

from egoexo_tools.stage import RunOptions
from omama.feature_cache import run_features
from tiny_root import make_tiny_root

from egoexo_tools.layout import DatasetRoot
from egoexo_tools.vocab import Direction, Split
from omama.config import TrainConfig
from omama.steps import Features, run_evaluate, run_predict, run_train

DIRECTIONS = [Direction.EGO2EXO]
METHODS = ("", "knn", "oracle", "random")
CONFIG = TrainConfig(epochs=2, batch_pairs=4, width=8, learning_rate=3e-3, candidates=4)


def main(folder: Path) -> None:
    root = DatasetRoot(folder / "root")
    make_tiny_root(root.path)
    run = RunOptions(executor="inline", quiet=True)
    features = Features("rgb_grid")
    run_features(root, backbone="rgb_grid", run=run).check()
    run_train(root, DIRECTIONS, CONFIG, features, run=run).check()
    run_predict(root, DIRECTIONS, METHODS, Split.TEST, features, run=run).check()
    run_evaluate(root, DIRECTIONS, METHODS, Split.TEST, run=run).check()
    with tarfile.open(folder / "root.tar.gz", "w:gz") as archive:
        archive.add(root.path, "root", filter=lambda one: None if _left_out(one.name) else one)


def _left_out(name: str) -> bool:
    return "tensorboard" in name or name.endswith(".lock")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
