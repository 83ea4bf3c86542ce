"""The training loop with a linear model: every expected number can be computed by hand."""

import json
import math
import os
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch import nn

from egoexo_tools.errors import DataError, SettingsError
from egoexo_tools.runs import CHECKPOINT_BEST, CHECKPOINT_LAST
from omama.checkpoint import Checkpoint, load_checkpoint
from omama.loop import Loop
from omama.task import LoopConfig, ParameterGroup, Task, ValScore

BATCHES, SAMPLES = 5, 3
Batch = tuple[torch.Tensor, torch.Tensor]


class Line(nn.Module):
    """y = slope x + offset and its squared error."""

    def __init__(self) -> None:
        super().__init__()
        self.slope, self.offset = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.ones(1))

    def forward(self, batch: Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        x, y = batch
        errors = self.slope * x + self.offset - y
        return errors.square().mean(), {"bias": errors.detach().mean()}


def points(epoch: int, number: int) -> Batch:
    x = torch.from_numpy(np.random.default_rng((epoch, number)).normal(size=SAMPLES)).float()
    return x, 3 * x - 2


def batches(epoch: int, first: int) -> Iterator[tuple[Batch, int]]:
    return ((points(epoch, number), SAMPLES) for number in range(first, BATCHES))


def make_task(
    validate: Callable[[nn.Module], ValScore] = lambda model: ValScore(0.5), **changes: Any
) -> Task[Batch]:
    line = Line()
    task = Task(
        method="line",
        module=line,
        model=line,
        groups=[ParameterGroup([line.slope, line.offset], 0.1, 0.01)],
        epoch_samples=BATCHES * SAMPLES,
        batches_per_epoch=BATCHES,
        batches=batches,
        to_device=lambda batch, device: batch,
        validate=validate,
        describe_batch=lambda batch: f"point {float(batch[0][0]):.3f}",
        config={"parameters": 2},
        settings={"learning_rate": 0.1},
        features={},
        fingerprint="points",
        unit="clip",
    )
    return replace(task, **changes)


def make_loop(folder: Path, config: LoopConfig, **changes: Any) -> Loop[Batch]:
    return Loop(make_task(**changes), config, accelerator=Accelerator(cpu=True), folder=folder)


def run(
    folder: Path,
    config: LoopConfig,
    *,
    resume: bool = False,
    stop_after: int | None = None,
    **changes: Any,
) -> Loop[Batch]:
    loop = make_loop(folder, config, **changes)
    if resume:
        loop.resume()
    assert loop.run(quiet=True, stop_after=stop_after) == folder / CHECKPOINT_BEST
    return loop


def log(folder: Path, name: str) -> list[float]:
    lines = map(json.loads, (folder / "log.jsonl").read_text().splitlines())
    return [line[name] for line in lines if name in line]


def last(folder: Path) -> Checkpoint:
    return load_checkpoint(folder / CHECKPOINT_LAST, method="line")


def scores(*ious: float) -> Callable[[nn.Module], ValScore]:
    """A validation that returns these values in turn."""
    remaining = iter(ious)
    return lambda model: ValScore(next(remaining))


CONFIG = LoopConfig(epochs=3)
"""15 steps of one batch."""


def test_logged_loss_is_the_mean_over_the_batches_of_a_step(tmp_path: Path) -> None:
    run(tmp_path, replace(CONFIG, accumulate=2), stop_after=1)
    errors = [1 - y for _, y in (points(0, 0), points(0, 1))]  # slope 0, offset 1
    expected = torch.stack(errors).square().mean()  # both batches have three points
    assert log(tmp_path, "loss") == [pytest.approx(float(expected))]
    assert log(tmp_path, "bias") == [pytest.approx(float(torch.stack(errors).mean()))]


def test_two_accumulated_batches_equal_one_batch_of_twice_the_size(tmp_path: Path) -> None:
    parts = run(tmp_path / "parts", replace(CONFIG, accumulate=2, epochs=1))

    def double(epoch: int, first: int) -> Iterator[tuple[Batch, int]]:
        for number in range(2 * first, BATCHES, 2):
            pair = [points(epoch, n) for n in range(number, min(number + 2, BATCHES))]
            xs, ys = zip(*pair, strict=True)
            yield (torch.cat(xs), torch.cat(ys)), SAMPLES * len(pair)

    config = LoopConfig(epochs=1)
    whole = run(tmp_path / "whole", config, batches=double, batches_per_epoch=3)
    assert parts.total_steps == whole.total_steps == 3  # the last one has a single batch
    assert log(tmp_path / "parts", "loss") == pytest.approx(log(tmp_path / "whole", "loss"))
    models = parts.task.model, whole.task.model
    for ours, theirs in zip(*(model.parameters() for model in models), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_accumulated_batches_keep_their_order(tmp_path: Path) -> None:
    first_values: list[float] = []

    def record(batch: Batch, device: torch.device) -> Batch:
        first_values.append(float(batch[0][0]))
        return batch

    run(tmp_path, replace(CONFIG, accumulate=2, epochs=2), to_device=record)
    assert first_values == [float(points(e, n)[0][0]) for e in range(2) for n in range(BATCHES)]


@pytest.mark.slow
@pytest.mark.parametrize("stop_after", range(1, 10))
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_run_resumed_at_any_step_equals_an_undisturbed_run(
    tmp_path: Path, stop_after: int, accumulate: int
) -> None:
    config = replace(CONFIG, accumulate=accumulate, average_decay=0.5, clip_norm=0.5)

    def by_slope(model: nn.Module) -> ValScore:
        return ValScore(float(model.slope.detach()), {"val_offset": float(model.offset.detach())})

    run(tmp_path / "whole", config, validate=by_slope)
    run(tmp_path / "parts", config, validate=by_slope, stop_after=stop_after)
    assert len(log(tmp_path / "parts", "loss")) == min(stop_after, 15 if accumulate == 1 else 9)
    run(tmp_path / "parts", config, validate=by_slope, resume=True)
    for name in ("step", "loss", "lr", "gradient_norm", "val_iou", "val_offset"):
        assert log(tmp_path / "parts", name) == log(tmp_path / "whole", name), name
    for name in (CHECKPOINT_LAST, CHECKPOINT_BEST):
        whole, parts = (load_checkpoint(tmp_path / part / name) for part in ("whole", "parts"))
        assert plain(whole) == plain(parts)


def plain(value: Any) -> Any:
    """A checkpoint with lists instead of tensors, which can be compared."""
    if isinstance(value, torch.Tensor):
        return value.tolist()
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return plain(vars(value)) if hasattr(value, "__dict__") else value


@pytest.mark.parametrize("averages_start", [False, True])
def test_the_average_of_the_weights_is_validated_and_saved(
    tmp_path: Path, averages_start: bool
) -> None:
    config = replace(CONFIG, epochs=1, average_decay=0.75)
    validated: list[float] = []

    def record(model: nn.Module) -> ValScore:
        validated.append(float(model.slope.detach()))
        return ValScore(0.5)

    changes = {"validate": record, "averages_start": averages_start}
    average = float(make_task().model.slope.detach()) if averages_start else None
    for step in range(BATCHES):
        loop = run(tmp_path, config, resume=step > 0, stop_after=1, **changes)
        slope = float(loop.task.model.slope.detach())
        average = slope if average is None else 0.75 * average + 0.25 * slope
    assert validated == [pytest.approx(average)]
    assert float(load_checkpoint(tmp_path / CHECKPOINT_BEST).weights["slope"]) == validated[0]
    assert float(last(tmp_path).weights["slope"]) == slope != validated[0]


def test_gradients_are_clipped_by_their_joint_norm(tmp_path: Path) -> None:
    loop = make_loop(tmp_path, replace(CONFIG, clip_norm=0.25))
    norms: list[float] = []

    def record(optimizer: Any, *arguments: Any) -> None:
        gradients = torch.cat([p.grad for p in loop.task.model.parameters()])
        norms.append(float(gradients.norm()))

    loop.optimizer.register_step_pre_hook(record)
    loop.run(quiet=True, stop_after=2)
    assert norms == pytest.approx([0.25, 0.25])
    x, y = points(0, 0)
    gradient = torch.stack([(2 * (1 - y) * x).mean(), (2 * (1 - y)).mean()])
    assert log(tmp_path, "gradient_norm")[0] == pytest.approx(float(gradient.norm()))


def test_gradients_are_not_clipped_by_default(tmp_path: Path) -> None:
    run(tmp_path, CONFIG, stop_after=1)
    assert log(tmp_path, "gradient_norm") == []


def test_each_group_has_its_own_rate_and_decay(tmp_path: Path) -> None:
    line = Line()
    groups = [
        ParameterGroup([line.slope], 0.1, 0.02, weight_decay=0.5),
        ParameterGroup([line.offset], 0.01, 0.0),
    ]
    loop = make_loop(tmp_path, CONFIG, module=line, model=line, groups=groups)
    rates: list[tuple[float, float]] = []
    loop.optimizer.register_step_pre_hook(
        lambda optimizer, *arguments: rates.append(tuple(g["lr"] for g in optimizer.param_groups))
    )
    loop.run(quiet=True)
    halfway = [0.5 * (1 + math.cos(math.pi * step / 14)) for step in range(15)]
    assert rates == [pytest.approx((0.02 + 0.08 * part, 0.01 * part)) for part in halfway]
    assert rates[0] == (0.1, 0.01) and rates[-1] == pytest.approx((0.02, 0.0))
    assert log(tmp_path, "lr") == [rate for rate, _ in rates]
    assert [group["weight_decay"] for group in loop.optimizer.param_groups] == [0.5, 0.0]


def test_the_schedule_can_be_replaced(tmp_path: Path) -> None:
    run(tmp_path, replace(CONFIG, schedule=lambda part: 1 - part))
    assert log(tmp_path, "lr") == pytest.approx(np.linspace(0.1, 0.01, 15).tolist())


@pytest.mark.parametrize(
    ("ious", "validations"),
    [
        ((0.5, 0.4, 0.3, 0.9), 3),
        ((0.5, 0.4, 0.6, 0.5, 0.5, 0.9), 5),  # an improvement resets patience
        ((0.5, 0.5, 0.5, 0.9), 3),  # an equal IoU does not count
    ],
)
def test_patience_counts_validations_since_the_best(
    tmp_path: Path, ious: tuple[float, ...], validations: int
) -> None:
    config = replace(CONFIG, val_every_steps=1, patience=2)
    run(tmp_path, config, validate=scores(*ious))
    assert log(tmp_path, "val_iou") == list(ious[:validations])
    assert last(tmp_path).state.stopped and last(tmp_path).state.stale == 2
    run(tmp_path, config, validate=scores(), resume=True)  # nothing is trained or validated
    assert len(log(tmp_path, "loss")) == validations


@pytest.mark.parametrize("stop_after", [1, 2, 3, 4])
def test_a_resumed_run_continues_to_count_patience(tmp_path: Path, stop_after: int) -> None:
    config = replace(CONFIG, val_every_steps=1, patience=2)
    ious = (0.5, 0.4, 0.6, 0.5, 0.5, 0.9)
    run(tmp_path, config, validate=scores(*ious), stop_after=stop_after)
    run(tmp_path, config, validate=scores(*ious[stop_after:]), resume=True)
    assert log(tmp_path, "val_iou") == list(ious[:5])


def test_the_best_checkpoint_is_from_the_best_validation(tmp_path: Path) -> None:
    calibrated: list[float] = []

    def validate(model: nn.Module) -> ValScore:
        iou = next(ious)

        def calibrate() -> dict[str, Any]:
            calibrated.append(iou)
            return {"score": "head", "threshold": iou}

        return ValScore(iou, {"val_extra": 2 * iou}, calibrate)

    ious = iter((0.5, 0.75, 0.25))
    run(tmp_path, CONFIG, validate=validate)
    best = load_checkpoint(tmp_path / CHECKPOINT_BEST, method="line")
    assert (best.step, best.epoch, best.val_iou) == (10, 2, 0.75)
    assert best.calibration == {"score": "head", "threshold": 0.75}
    assert best.state.optimizer is None
    assert calibrated == [0.5, 0.75]  # only for a new best
    assert log(tmp_path, "val_extra") == [1.0, 1.5, 0.5]
    assert (last(tmp_path).config, last(tmp_path).step) == ({"parameters": 2}, 15)


def with_baseline(*ious: float) -> Callable[[nn.Module], ValScore]:
    remaining = iter(ious)
    return lambda model: ValScore(next(remaining), baselines={"knn": 0.5})


@pytest.mark.parametrize(
    ("ious", "step", "warning"),
    [
        ((0.75, 0.25, 0.5, 0.25), 0, "no validation matches the val IoU 0.750 of the initial"),
        ((0.75, 0.25, 0.75, 0.75), 10, None),
        ((0.25, 0.375, 0.25, 0.25), 5, "knn, without training, has 0.500. Predict with"),
    ],
)
def test_usable_initial_weights_are_the_best_until_a_validation_matches_them(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    ious: tuple[float, ...],
    step: int,
    warning: str | None,
) -> None:
    changes = {"measures_start": True, "keeps_start": True}
    run(tmp_path, CONFIG, validate=with_baseline(*ious[:3]), stop_after=10, **changes)
    assert not caplog.text  # the run is not finished
    run(tmp_path, CONFIG, validate=with_baseline(*ious[3:]), resume=True, **changes)
    best = load_checkpoint(tmp_path / CHECKPOINT_BEST)
    assert (best.step, best.val_iou) == (step, max(ious))
    assert log(tmp_path, "start_val_iou") == [ious[0]] and log(tmp_path, "knn_val_iou") == [0.5]
    assert warning in caplog.text if warning else not caplog.text


def test_random_initial_weights_are_not_the_best_checkpoint(tmp_path: Path) -> None:
    run(tmp_path, CONFIG, validate=with_baseline(0.75, 0.25, 0.5, 0.25), measures_start=True)
    assert load_checkpoint(tmp_path / CHECKPOINT_BEST).step == 10
    assert not log(tmp_path, "start_val_iou") and log(tmp_path, "knn_val_iou") == [0.5]


def test_validations_take_place_every_n_steps_and_at_the_end(tmp_path: Path) -> None:
    config = replace(CONFIG, val_every_steps=4)
    loop = run(tmp_path, config)
    lines = map(json.loads, (tmp_path / "log.jsonl").read_text().splitlines())
    assert [line["step"] for line in lines if "val_iou" in line] == [4, 8, 12, 15]
    assert loop.total_steps == 15


@pytest.mark.skipif(
    threading.current_thread() is not threading.main_thread(), reason="signals go to the main one"
)
@pytest.mark.parametrize("sent_signal", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_after_a_step(tmp_path: Path, sent_signal: signal.Signals) -> None:
    def interrupting(epoch: int, first: int) -> Iterator[tuple[Batch, int]]:
        for number, batch in enumerate(batches(epoch, first)):
            if (epoch, number) == (1, 1):
                os.kill(os.getpid(), sent_signal)
            yield batch

    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "parts", CONFIG, batches=interrupting)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers
    assert last(tmp_path / "parts").step == len(log(tmp_path / "parts", "loss")) == 7
    run(tmp_path / "parts", CONFIG, resume=True)
    run(tmp_path / "whole", CONFIG)
    assert log(tmp_path / "parts", "loss") == log(tmp_path / "whole", "loss")


def test_work_is_saved_between_validations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("omama.loop.SAVE_SECONDS", -1.0)

    def failing(epoch: int, first: int) -> Iterator[tuple[Batch, int]]:
        yield from list(batches(epoch, first))[:3]
        raise RuntimeError("the power went")

    with pytest.raises(RuntimeError):
        run(tmp_path, CONFIG, batches=failing)
    assert last(tmp_path).step == 3


def test_the_log_drops_steps_after_the_last_checkpoint(tmp_path: Path) -> None:
    """As after a power cut: further steps were logged after the last save, one only half."""
    run(tmp_path / "parts", CONFIG, stop_after=6)
    with (tmp_path / "parts" / "log.jsonl").open("a") as file:
        file.write('{"step": 7, "loss": 1.5}\n{"step": 8, "lo')
    run(tmp_path / "parts", CONFIG, resume=True)
    run(tmp_path / "whole", CONFIG)
    assert log(tmp_path / "parts", "loss") == log(tmp_path / "whole", "loss")


def test_an_infinite_loss_stops_with_the_name_of_the_batch(tmp_path: Path) -> None:
    def broken(epoch: int, first: int) -> Iterator[tuple[Batch, int]]:
        for number, (batch, size) in enumerate(batches(epoch, first)):
            yield ((batch[0], batch[1] * math.inf) if number == 2 else batch), size

    message = rf"became inf at step 3, at point {float(points(0, 2)[0][0]):.3f}; .* than 0.1"
    with pytest.raises(DataError, match=message):
        run(tmp_path, CONFIG, batches=broken)
    assert len(log(tmp_path, "loss")) == 2


def test_changed_data_and_settings_are_rejected_and_only_a_new_start_removes_results(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A6: a resumed run never replaces its checkpoint by one of other data."""
    run(tmp_path, CONFIG, stop_after=4)
    with pytest.raises(SettingsError, match=r"learning_rate=0.1, now 0.2; resume with the same"):
        run(tmp_path, CONFIG, settings={"learning_rate": 0.2}, resume=True)
    with pytest.raises(DataError, match="is a checkpoint of line, not of circle"):
        run(tmp_path, CONFIG, method="circle", resume=True)
    summary, best = tmp_path / "summary.json", tmp_path / CHECKPOINT_BEST
    summary.write_text("{}")
    before = (tmp_path / CHECKPOINT_LAST).read_bytes()
    with pytest.raises(SettingsError, match="was trained on other data .* with --overwrite"):
        run(tmp_path, CONFIG, fingerprint="others", resume=True, stop_after=2)
    assert (tmp_path / CHECKPOINT_LAST).read_bytes() == before
    run(tmp_path, CONFIG, resume=True, stop_after=2)
    assert summary.exists() and best.exists()
    loop = make_loop(tmp_path, CONFIG, fingerprint="others")
    loop.resume(overwrite=True)
    loop.run(quiet=True, stop_after=2)
    assert "training starts again" in caplog.text
    assert len(log(tmp_path, "loss")) == 2
    assert not summary.exists() and not best.exists()


def test_the_log_counts_in_the_unit_of_the_method(tmp_path: Path) -> None:
    run(tmp_path, CONFIG, stop_after=2)
    assert all(rate > 0 for rate in log(tmp_path, "clips_per_second"))
    assert len(log(tmp_path, "clips_per_second")) == 2
