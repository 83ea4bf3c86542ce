"""The toolkit's own exceptions; the command line turns each into one line and an exit code."""

import errno
import os
import tempfile
import time
import traceback
from contextlib import suppress
from pathlib import Path

DEBUG = "EGOEXO_TOOLS_DEBUG"
"""Environment variable: show the traces of unexpected errors instead of writing them."""


class DataError(Exception):
    """Input that cannot be used. The message says what came, what is allowed, what to do next."""


class SettingsError(DataError):
    """The command was asked for something that its arguments cannot mean (exit code 2)."""


class StageFailed(Exception):
    """Some units of a stage failed; the message groups them by reason (exit code 1)."""


def disk_full_text(error: OSError) -> str | None:
    """A sentence if a file could not be written for want of room, else None."""
    return _NO_SPACE.get(error.errno or 0)


def describe_unexpected(error: BaseException, doing: str, *, trace: Path | None = None) -> str:
    """One sentence about an exception that nobody foresaw; the whole of it goes to a file.

    `doing` is what was being done; notes on the exception (`add_note`) say on what. `trace` is
    the file to write, by default one in the folder for temporary files.
    """
    what = (str(error).splitlines() or [""])[0][:200]
    notes = "".join(f" ({note})" for note in getattr(error, "__notes__", ()))
    written = _write_trace(error, doing, trace)
    return (
        f"{doing}{notes} ended in an error that is the toolkit's own: "
        f"{type(error).__name__}{': ' if what else ''}{what}. {written}; please report it, with "
        "that file, to whoever you have the toolkit from"
    )


def _write_trace(error: BaseException, doing: str, trace: Path | None) -> str:
    if trace is None:
        stamp = time.strftime("%Y%m%d-%H%M%S")
        trace = Path(tempfile.gettempdir()) / f"egoexo-tools-{stamp}-{os.getpid()}.txt"
    text = "".join(traceback.format_exception(error))
    with suppress(OSError):
        trace.parent.mkdir(parents=True, exist_ok=True)
        trace.write_text(f"{doing}\n\n{text}")
        return f"The full trace is in {trace}"
    return "The full trace could not be written (--debug shows it)"


_NO_SPACE = {
    errno.ENOSPC: "the disk is full; make room and run the same command again",
    errno.EDQUOT: "your disk quota is used up; make room and run the same command again",
    errno.EFBIG: "a file would be larger than the limit that this process or file system has; "
    "raise it (ulimit -f) and run the same command again",
}
