"""Our checkpoint files: complete round trips, other files, full disks and interruptions."""

import os
import signal
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from egoexo_tools.errors import DataError
from egoexo_tools.vocab import Direction
from omama.checkpoint import Checkpoint, TrainState, load_checkpoint, save_checkpoint, write_file
from omama.matching.config import ModelConfig, TrainConfig
from omama.matching.model import OMama
from omama.matching.model_files import load_model, save_official

SMALL = ModelConfig(feature_width=12, width=8, source_grid_hw=(2, 3), dest_grid_hw=(3, 3))


def small() -> Checkpoint:
    return Checkpoint(SMALL.to_dict(), OMama(SMALL).state_dict(), "o-mama")


def tensors_apart(checkpoint: Checkpoint) -> Checkpoint:
    state = replace(checkpoint.state, optimizer=None, average=None)
    return replace(checkpoint, weights={}, state=state)


def test_our_checkpoint_survives_a_round_trip(tmp_path: Path) -> None:
    model = OMama(SMALL)
    optimizer = torch.optim.AdamW(model.parameters())
    inputs = torch.randn(1, 1, 24), torch.randn(1, 4, 24), torch.randn(1, 12, 2, 3)
    model(*inputs, torch.randn(1, 12, 3, 3)).sum().backward()
    optimizer.step()
    state = TrainState(
        fingerprint="34cd",
        best_iou=np.float64(0.5),
        stale=2,
        stopped=True,
        ranks=4,
        optimizer=optimizer.state_dict(),
        average={"module.weight": torch.ones(2)},
    )
    saved = Checkpoint(
        config=SMALL.to_dict(),
        weights=model.state_dict(),
        method="o-mama",
        train_config=TrainConfig().to_dict(),
        features={"name": "efficientnet-lite0", "weights_hash": "12ab", "patch_size": 14},
        epoch=2,
        step=7,
        val_iou=0.25,
        calibration={"score": "head", "threshold": 0.125},
        decision={"name": "track", "stay": 0.75, "direction": Direction.EXO2EGO},
        state=state,
    )
    save_checkpoint(saved, tmp_path / "run" / "last.pt")
    loaded = load_checkpoint(tmp_path / "run" / "last.pt", method="o-mama")
    assert tensors_apart(loaded) == tensors_apart(saved)
    assert loaded.state.average["module.weight"].tolist() == [1, 1]
    rebuilt = load_model(tmp_path / "run" / "last.pt", direction=Direction.EXO2EGO)
    other = torch.optim.AdamW(rebuilt.parameters())
    other.load_state_dict(loaded.state.optimizer)
    assert other.state_dict()["state"][0]["exp_avg"].equal(
        optimizer.state_dict()["state"][0]["exp_avg"]
    )
    assert all(
        torch.equal(value, model.state_dict()[key]) for key, value in rebuilt.state_dict().items()
    )


def test_the_authors_file_is_not_one_of_ours(tmp_path: Path) -> None:
    torch.save(OMama(SMALL).state_dict(), tmp_path / "model.pt")
    with pytest.raises(DataError, match="not a checkpoint of this program; .* give it as --init"):
        load_checkpoint(tmp_path / "model.pt")


def test_values_that_could_not_be_read_back_are_not_written(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    save_checkpoint(small(), path)
    before = path.read_bytes()
    unreadable = replace(small(), decision={"run": Path("run")})
    with pytest.raises(TypeError, match="plain values and tensors, not PosixPath"):
        save_checkpoint(unreadable, path)
    assert path.read_bytes() == before
    assert [item.name for item in tmp_path.iterdir()] == ["model.pt"]


@pytest.mark.parametrize("save", ["ours", "official"])
def test_a_full_disk_raises_no_space_left(save: str, small_disk: Path) -> None:
    model = OMama(ModelConfig.official(Direction.EGO2EXO))
    with pytest.raises(OSError, match="No space left"):
        if save == "official":
            save_official(model, small_disk / "c.pt")
        else:
            save_checkpoint(Checkpoint({}, model.state_dict(), "o-mama"), small_disk / "c.pt")
    assert list(small_disk.iterdir()) == []


@pytest.mark.skipif(
    threading.current_thread() is not threading.main_thread(), reason="signals go to the main one"
)
def test_an_interruption_while_writing_is_a_keyboard_interrupt(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)

    def read() -> None:
        with pipe.open("rb") as file:
            file.read(1000)  # Now the writer waits for room: a pipe holds 64 kB.
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
            while file.read(1 << 20):
                pass

    reader = threading.Thread(target=read)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # test runners ignore it
    try:
        reader.start()
        with pytest.raises(KeyboardInterrupt):
            write_file({"weights": torch.zeros(1 << 20)}, pipe)
        reader.join()
    finally:
        signal.signal(signal.SIGINT, before)
