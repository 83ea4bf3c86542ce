"""The toolkit's own exceptions; the command line turns each into one line and an exit code."""

import errno


class DataError(Exception):
    """Input that cannot be used. The message says what came, what is allowed, what to do next."""


class SettingsError(DataError):
    """The command was asked for something that its arguments cannot mean (exit code 2)."""


class StageFailed(Exception):
    """Some units of a stage failed; the message groups them by reason (exit code 1)."""


def no_space(error: OSError) -> str | None:
    """A sentence if a file could not be written for want of room, else None."""
    return _NO_SPACE.get(error.errno or 0)


_NO_SPACE = {
    errno.ENOSPC: "the disk is full; make room and run the same command again",
    errno.EDQUOT: "your disk quota is used up; make room and run the same command again",
    errno.EFBIG: "a file would be larger than the limit that this process or file system has; "
    "raise it (ulimit -f) and run the same command again",
}
