"""Options of `omama train` and `predict` come from the selected method's dataclasses."""

import importlib
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from omama.cli import main
from omama.commands.method_options import FieldOption, field_docs
from omama.commands.predict import command as predict_command
from omama.commands.train import command as train_command
from omama.config import Features
from omama.lm_eec.settings import LmEecOptions, LmEecTrainConfig
from omama.matching.config import MatchingOptions, TrainConfig
from omama.methods import METHODS, Method

TRAIN = ["train", "root", "--direction", "ego2exo"]
PREDICT = ["predict", "root", "--direction", "ego2exo", "--split", "test"]

PAINTER = '''
from dataclasses import dataclass, field
from pathlib import Path

import click


@dataclass(frozen=True)
class PainterConfig:
    brushes: int = 3
    """Brushes to train."""
    palette: tuple[str, ...] = ("red",)


@dataclass(frozen=True)
class PainterOptions:
    colour: str = field(default="red", metadata={"choices": f"{__name__}:COLOURS"})
    """Colour of the masks."""
    layers: int | None = None
    """Layers of paint; None: as many as needed."""
    quiet: bool = False


COLOURS = ("red", "green")


def train(root, direction, config, run, *, options):
    click.echo(f"{config} {options}")
    return Path("painter.pt")


def predict(root, direction, split, checkpoint, *, options):
    raise NotImplementedError
'''


@pytest.fixture
def painter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A third-party method, entered in METHODS as docs/extending.md says."""
    (tmp_path / "painter_module.py").write_text(PAINTER)
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    method = Method(
        label="painter",
        chooses_proposals=False,
        train="painter_module:train",
        predict="painter_module:predict",
        config="painter_module:PainterConfig",
        options="painter_module:PainterOptions",
    )
    monkeypatch.setitem(METHODS, "painter", method)
    yield "painter"
    sys.modules.pop("painter_module", None)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


def words(*arguments: str) -> str:
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return " ".join(result.output.split())


def test_train_help_shows_the_defaults_of_the_method() -> None:
    o_mama, lm_eec = words("train", "--help"), words("train", "--method", "lm-eec", "--help")
    assert "--epochs INTEGER Number of epochs. [default: 3]" in o_mama
    assert "Learning rate of AdamW at the start. [default: 8e-5]" in o_mama
    assert "--epochs INTEGER Number of epochs. [default: 60]" in lm_eec
    assert "Learning rate of AdamW at the start. [default: 5e-6]" in lm_eec
    assert "--width INTEGER" in o_mama and "--width INTEGER" not in lm_eec
    assert "--clips-per-track" in lm_eec and "--clips-per-track" not in o_mama


def test_predict_help_shows_the_defaults_of_the_method() -> None:
    o_mama, lm_eec = words("predict", "--help"), words("predict", "--method=lm-eec", "--help")
    assert "--batch-pairs INTEGER Pairs in a batch. [default: 64]" in o_mama
    assert "--precision [fp32|bf16]" in o_mama and "--precision [auto|fp32|bf16]" in lm_eec
    assert "--decide [best|frame|track-causal|track]" in o_mama and "--decide" not in lm_eec


@pytest.mark.parametrize(
    "config", [TrainConfig, LmEecTrainConfig, MatchingOptions, LmEecOptions, Features]
)
def test_every_field_has_a_help_text(config: type) -> None:
    assert set(field_docs(config)) >= {field.name for field in fields(config)}


def test_an_option_is_offered_by_one_of_the_commands_for_every_field() -> None:
    for name, method in METHODS.items():
        options = [
            option
            for command in (train_command, predict_command)
            for option in command.field_options(name)
        ]
        assert all(isinstance(option, FieldOption) and option.help for option in options)
        names = {option.name for option in options} | {"run_name", "quiet", "features", "overwrite"}
        assert method.options is not None
        record = LmEecOptions if name == "lm-eec" else MatchingOptions
        missing = {field.name for field in fields(record)} - names
        assert missing == (set() if method.train else {"init", "resume"})


@pytest.mark.parametrize(
    "spelling",
    [
        "--backbone", "--weights", "--feature-precision", "--cached", "--on-the-fly", "--run-name",
        "--init", "--resume", "--epochs", "--batch-pairs", "--accumulate", "--learning-rate",
        "--weight-decay", "--average-decay", "--width", "--residual", "--no-residual",
        "--candidates", "--val-every-steps", "--patience", "--visibility-weight", "--precision",
        "--seed", "--reference-behaviour", "--quiet", "--method", "--direction", "--overwrite",
    ],
)  # fmt: skip
def test_train_keeps_its_spellings(spelling: str) -> None:
    assert spelling in words("train", "--help").split()


@pytest.mark.parametrize(
    "spelling",
    [
        "--direction", "--split", "--method", "--checkpoint", "--backbone", "--weights", "-o,",
        "--output", "--cached", "--on-the-fly", "--size", "--run-name", "--batch-pairs", "--decide",
        "--source-image", "--source-mask", "--dest-image", "--proposer", "--proposer-weights",
        "--precision", "--feature-precision", "--reference-behaviour", "--quiet",
    ],
)  # fmt: skip
def test_predict_keeps_its_spellings(spelling: str) -> None:
    assert spelling in words("predict", "--help").split()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            [*TRAIN, "--method", "lm-eec", "--width", "128"],
            "the method lm-eec has no option --width in train; o-mama has it",
        ),
        (
            [*TRAIN, "--no-augment"],
            "the method o-mama has no option --no-augment in train; lm-eec has it",
        ),
        (
            [*PREDICT, "--backbone", "dinov2", "--method", "lm-eec"],
            "the method lm-eec has no option --backbone in predict; "
            "o-mama, knn, oracle, random have it",
        ),
        ([*TRAIN, "--no-such-option"], "No such option '--no-such-option'."),
        ([*TRAIN, "--method", "none"], "'none' is not one of 'o-mama', 'knn'"),
        ([*TRAIN, "--epochs", "0"], "epochs=0; it must be an integer of at least 1"),
        ([*TRAIN, "--width", "0"], "width=0; it must be an integer of at least 1"),
        ([*TRAIN, "--precision", "fp8"], "'fp8' is not one of 'auto', 'fp32', 'bf16'"),
        ([*TRAIN, "--method", "knn"], "knn is not trained; train one of o-mama, lm-eec"),
        (PREDICT, "o-mama predicts with a checkpoint: give --checkpoint"),
        ([*PREDICT, "--method", "knn", "--checkpoint", "x.pt"], "knn takes no checkpoint"),
    ],
)
def test_wrong_options_exit_2_with_a_message(arguments: list[str], message: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert message in result.output


def test_a_third_party_method_gets_its_options(painter: str) -> None:
    train_help = words("train", "--method", painter, "--help")
    assert "--brushes INTEGER Brushes to train. [default: 3]" in train_help
    assert "--palette" not in train_help
    predict_help = words("predict", "--method", painter, "--help")
    assert "--colour [red|green] Colour of the masks. [default: red]" in predict_help
    assert "--layers INTEGER Layers of paint. [default: as many as needed]" in predict_help
    result = run(*TRAIN, "--brushes", "5", "--method", painter, "--quiet")
    assert result.output.splitlines()[0] == (
        "PainterConfig(brushes=5, palette=('red',)) "
        "PainterOptions(colour='red', layers=None, quiet=True)"
    )
    assert "painter has it" in run(*TRAIN, "--brushes", "5").output
