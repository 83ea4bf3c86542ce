"""The toolkit's own exceptions; the command line turns each into one line and an exit code."""


class DataError(Exception):
    """Input that cannot be used. The message says what came, what is allowed, what to do next."""


class SettingsError(DataError):
    """The command was asked for something that its arguments cannot mean (exit code 2)."""


class StageFailed(Exception):
    """Some units of a stage failed; the message groups them by reason (exit code 1)."""
