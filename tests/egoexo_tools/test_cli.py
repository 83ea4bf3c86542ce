"""The programs as a user calls them: help, exit codes, messages of errors."""

from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from command_lines import PROGRAMS

from egoexo_tools.commands import LazyGroup, per_split
from egoexo_tools.errors import DEBUG, SettingsError

COMMANDS = [(program, name) for program, group in PROGRAMS.items() for name in group.table]


def run(group: LazyGroup, *words: str) -> tuple[int, str]:
    result = CliRunner().invoke(group, list(words))
    return result.exit_code, result.output


@pytest.mark.parametrize(("program", "name"), COMMANDS)
def test_every_command_has_help_with_an_example(program: str, name: str) -> None:
    code, output = run(PROGRAMS[program], name, "--help")
    assert code == 0
    subcommands = getattr(PROGRAMS[program].get_command(None, name), "commands", {})  # type: ignore[arg-type]
    for sub in subcommands:
        output += run(PROGRAMS[program], name, sub, "--help")[1]
    assert "Example" in output and f"{program} {name}" in " ".join(output.split())


def test_wrong_usage_exits_2_and_bad_input_exits_1(tmp_path: Path) -> None:
    group = PROGRAMS["egoexo-tools"]
    assert run(group, "nonsense")[0] == 2
    code, output = run(group, "ingest", str(tmp_path / "root"), "--release", str(tmp_path))
    assert code == 1
    assert "is not an Ego-Exo4D release" in output and "Traceback" not in output
    assert not (tmp_path / "root" / "manifests").exists()


def test_values_per_split() -> None:
    assert per_split(("train=0.2", "val=1"), float) == {"train": 0.2, "val": 1.0}
    with pytest.raises(SettingsError, match="'dev=1' is not SPLIT=NUMBER; write it as train=0.2"):
        per_split(("dev=1",), float)
    with pytest.raises(SettingsError, match="'train=half'"):
        per_split(("train=half",), float)


@pytest.mark.parametrize("debug", [False, True])
def test_an_unexpected_error_prints_a_sentence_and_writes_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, debug: bool
) -> None:
    def fail(*args: object, **options: object) -> None:
        error = ValueError("max() arg is an empty sequence")
        error.add_note("take 7")
        raise error

    monkeypatch.setattr("egoexo_tools.synthetic.synthesize", fail)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv(DEBUG, "")
    words = ["synthesize", str(tmp_path / "release"), *(["--debug"] if debug else [])]
    result = CliRunner().invoke(PROGRAMS["egoexo-tools"], words)
    assert result.exit_code == 1
    if debug:
        assert isinstance(result.exception, ValueError)
        return
    (trace,) = tmp_path.glob("egoexo-tools-*.txt")
    assert "synthesize (take 7) failed" in result.output and "Traceback" not in result.output
    assert "ValueError: max() arg is an empty sequence" in result.output
    assert str(trace) in result.output and "report it" in result.output
    assert "Traceback" in trace.read_text() and "in fail" in trace.read_text()


@pytest.mark.parametrize(("program", "name"), COMMANDS)
@pytest.mark.parametrize("debug", [False, True])
def test_no_command_ends_in_a_traceback(
    program: str, name: str, debug: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    group = PROGRAMS[program]
    command = group.get_command(click.Context(group), name)
    assert command is not None

    def fail(*args: object, **options: object) -> None:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr(command, "invoke", fail)
    monkeypatch.setattr(command, "parse_args", lambda context, words: [])
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv(DEBUG, "")
    result = CliRunner().invoke(group, [*(["--debug"] if debug else []), name])
    assert result.exit_code == 1
    if debug:
        assert isinstance(result.exception, ZeroDivisionError)
        return
    (trace,) = tmp_path.glob("*.txt")
    assert f"{name} failed because of an error in the toolkit" in result.output
    assert str(trace) in result.output and "report it" in result.output
    assert "Traceback" not in result.output and "in fail" in trace.read_text()
