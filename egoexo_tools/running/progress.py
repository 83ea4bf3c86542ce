"""Progress of long work: a bar on a terminal or in a notebook, lines of text elsewhere.

In a log (CI, Slurm, nohup, a pipe) a bar would only leave carriage returns. There, one line is
printed at the start, one every 30 seconds, even while a single unit takes long, and one at the
end.
"""

import sys
import threading
import time
from importlib import import_module
from types import TracebackType
from typing import Any, Protocol, Self, TextIO, cast

from egoexo_tools.disk import size_text

SECONDS_BETWEEN_LINES = 30.0


class Progress(Protocol):
    """What working code uses of a progress bar; tqdm has the same methods."""

    def update(self, n: float = 1) -> Any: ...
    def set_postfix(self, *, refresh: bool = True, **values: str) -> Any: ...
    def close(self) -> Any: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> Any: ...


def open_progress(
    *,
    total: int,
    desc: str,
    unit: str,
    initial: int = 0,
    is_bytes: bool = False,
    quiet: bool = False,
    smoothing: float = 0.1,
) -> Progress:
    """Progress over `total` units (bytes if `is_bytes`), of which `initial` are already done.

    `quiet` shows nothing. `smoothing` is that of tqdm. Progress goes to stderr, so a command's
    output stays clean.
    """
    in_notebook = _has_widgets()
    if not (quiet or in_notebook or (sys.stderr is not None and sys.stderr.isatty())):
        return ProgressLines(total, desc, "GB" if is_bytes else f"{unit}s", initial)
    bar = import_module("tqdm.notebook" if in_notebook else "tqdm").tqdm(
        total=total,
        desc=desc,
        unit=unit,
        initial=initial,
        unit_scale=is_bytes,
        disable=quiet,
        smoothing=smoothing,
    )
    return cast(Progress, bar)


def skip_progress(bar: Progress, n: int) -> None:
    """Advance a bar by earlier work, without a change of its rate; n may be negative."""
    if isinstance(bar, ProgressLines):
        bar.skip(n)
        return
    tqdm_bar = cast(Any, bar)
    if not tqdm_bar.disable:
        tqdm_bar.initial += n
        tqdm_bar.last_print_n += n
    tqdm_bar.n += n


def print_line(text: str) -> None:
    """Print a line to stderr, above a progress bar if there is one."""
    from tqdm import tqdm

    tqdm.write(text, file=sys.stderr)


class ProgressLines:
    """Prints a line at the start, every `seconds`, and at the end."""

    def __init__(
        self,
        total: int,
        desc: str,
        units: str,
        initial: int = 0,
        *,
        seconds: float = SECONDS_BETWEEN_LINES,
        stream: TextIO | None = None,
    ) -> None:
        self._total, self._desc, self._units = total, desc, units
        self._count = self._initial = initial
        self._postfix = ""
        self._start = time.monotonic()
        self._stream = stream
        self._ended = threading.Event()
        self._write(f"{desc}: {self._share()}")
        # A separate thread: a single unit may take longer than the time between two lines.
        self._ticker = threading.Thread(target=self._tick, args=(seconds,), daemon=True)
        self._ticker.start()

    def update(self, n: float = 1) -> None:
        self._count += int(n)

    def skip(self, n: int) -> None:
        self._initial += n
        self._count += n

    def set_postfix(self, *, refresh: bool = True, **values: str) -> None:
        self._postfix = "".join(f", {name} {value}" for name, value in values.items())

    def close(self) -> None:
        if self._ended.is_set():
            return
        self._ended.set()
        self._ticker.join()
        seconds = time.monotonic() - self._start
        self._write(f"{self._desc}: {self._share()} in {duration_text(seconds)}{self._postfix}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _tick(self, seconds: float) -> None:
        while not self._ended.wait(seconds):
            elapsed = time.monotonic() - self._start
            count = self._count - self._initial
            if count:
                remaining = duration_text(elapsed / count * (self._total - self._count))
                rate = count / elapsed
                if self._units == "GB":
                    rate_text = f"{size_text(rate)}/s"
                else:
                    rate_text = f"{rate:.1f}/s" if rate >= 1 else f"{1 / rate:.1f} s each"
                speed = f"{rate_text}, {remaining} left"
            else:
                speed = f"{duration_text(elapsed)} so far"
            self._write(f"{self._desc}: {self._share()}, {speed}{self._postfix}")

    def _share(self) -> str:
        if self._units == "GB":
            return f"{self._count / 1e9:.2f} of {self._total / 1e9:.2f} GB"
        return f"{self._count:,} of {self._total:,} {self._units}"

    def _write(self, line: str) -> None:
        stream = self._stream or sys.stderr
        stream.write(line + "\n")
        stream.flush()


def duration_text(seconds: float) -> str:
    """`42 s`, `3 min 05 s` or `2 h 10 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"


def _has_widgets() -> bool:
    """Whether this is a notebook whose front end can show tqdm's widget."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    if shell is None or type(shell).__name__ != "ZMQInteractiveShell":
        return False
    try:
        import ipywidgets  # noqa: F401
    except ImportError:
        return False
    return True
