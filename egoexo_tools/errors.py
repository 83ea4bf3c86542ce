"""The toolkit's exceptions. The command line turns each into one line and an exit code."""

import errno
import os
import tempfile
import time
import traceback
from contextlib import suppress
from pathlib import Path

DEBUG = "EGOEXO_TOOLS_DEBUG"
"""Environment variable: show tracebacks of unexpected errors instead of writing them to a file."""


class DataError(Exception):
    """Unusable input. The message says what was found, what is allowed and what to do next."""


class SettingsError(DataError):
    """Arguments of a command or function that are invalid or contradictory (exit code 2)."""


class StageFailed(Exception):
    """Some units of a stage failed; the message groups them by reason (exit code 1)."""


_DISK_FULL_TEXTS = {
    errno.ENOSPC: "the disk is full; make room and run the same command again",
    errno.EDQUOT: "your disk quota is used up; make room and run the same command again",
    errno.EFBIG: "a file would be larger than the limit of this process or file system; raise it "
    "(ulimit -f) and run the same command again",
}


def disk_full_text(error: OSError) -> str | None:
    """A message if a file could not be written for lack of space; None for other errors."""
    return _DISK_FULL_TEXTS.get(error.errno or 0)


def describe_unexpected(error: BaseException, task: str, *, trace: Path | None = None) -> str:
    """One sentence about an unexpected exception; writes its full traceback to a file.

    `task` says what was being done; notes on the exception (`add_note`) say on what. `trace` is
    the file to write, by default a new one in the folder for temporary files.
    """
    message = (str(error).splitlines() or [""])[0][:200]
    notes = "".join(f" ({note})" for note in getattr(error, "__notes__", ()))
    if trace is None:
        stamp = time.strftime("%Y%m%d-%H%M%S")
        trace = Path(tempfile.gettempdir()) / f"egoexo-tools-{stamp}-{os.getpid()}.txt"
    place = "The full traceback could not be written (--debug shows it)"
    with suppress(OSError):
        trace.parent.mkdir(parents=True, exist_ok=True)
        trace.write_text(f"{task}\n\n{''.join(traceback.format_exception(error))}")
        place = f"The full traceback is in {trace}"
    return (
        f"{task}{notes} failed because of an error in the toolkit: "
        f"{type(error).__name__}{': ' if message else ''}{message}. {place}; please report it, "
        "with that file, to the source of your copy of the toolkit"
    )
