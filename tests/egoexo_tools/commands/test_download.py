"""`egoexo-tools download` reads sizes and refuses options that exclude each other."""

import pytest
from command_lines import run_command_line

from egoexo_tools.commands.download import _parse_bytes
from egoexo_tools.errors import SettingsError


@pytest.mark.parametrize(
    ("text", "size"),
    [("200GB", 200 * 10**9), ("1.5 mb", 1_500_000), ("500kb", 500_000), ("17", 17), ("9B", 9)],
)
def test_sizes_in_units_of_1000(text: str, size: int) -> None:
    assert _parse_bytes(text) == size
    assert _parse_bytes(None) is None


@pytest.mark.parametrize("text", ["", "GB", "0", "-1GB", "12XB", "1e400GB", "nan"])
def test_other_sizes_are_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="is not a number of bytes; write it as 200GB or 500MB"):
        _parse_bytes(text)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--disk-budget", "1GB"], "--disk-budget and --from-s3 need --root"),
        (["--from-s3"], "--disk-budget and --from-s3 need --root"),
        (["--root", "root", "--from-s3", "--disk-budget", "1GB"], "exclude each other"),
        (["--root", "root", "--disk-budget", "1GB", "--shard", "1/2"], "does not work in shards"),
    ],
)
def test_options_that_exclude_each_other(options: list[str], message: str) -> None:
    result = run_command_line(["egoexo-tools", "download", "release", *options])
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())
