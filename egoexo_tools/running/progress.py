"""How far a long piece of work is: a bar where somebody watches, lines where nobody does.

A terminal gets tqdm's bar, a notebook tqdm's widget. Anywhere else (CI, Slurm, nohup, a pipe) a
bar would fill the log with carriage returns: there a line says what begins, another comes every
30 seconds, also while one unit takes long, and one at the end.
"""

import sys
import threading
import time
from types import TracebackType
from typing import Any, Protocol, Self, TextIO, cast

from egoexo_tools.disk import size_text

SECONDS_BETWEEN_LINES = 30.0


class Progress(Protocol):
    """What the code that works sees of a bar; tqdm has the same names."""

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
    """A bar of `total` units (bytes, if `is_bytes`), of which `initial` are done already.

    `quiet` shows nothing. The text goes to stderr, so that a command's output stays clean.
    """
    if quiet or _is_terminal(sys.stderr) or _has_widgets():
        return cast(
            Progress,
            _tqdm()(
                total=total,
                desc=desc,
                unit=unit,
                initial=initial,
                unit_scale=is_bytes,
                disable=quiet,
                smoothing=smoothing,
            ),
        )
    return ProgressLines(total, desc, "GB" if is_bytes else f"{unit}s", initial)


def skip_progress(bar: Progress, n: int) -> None:
    """Move a bar without moving the rate and the time left that it shows; n may be negative."""
    if isinstance(bar, ProgressLines):
        bar.skip(n)
        return
    inner = cast(Any, bar)
    if not inner.disable:
        inner.initial += n
        inner.last_print_n += n
    inner.n += n


def print_line(text: str) -> None:
    """A line of its own on stderr, above a bar where there is one."""
    from tqdm import tqdm

    tqdm.write(text, file=sys.stderr)


class ProgressLines:
    """A line at the start, every `seconds`, and at the end."""

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
        self._done = self._initial = initial
        self._postfix = ""
        self._started = time.monotonic()
        self._stream = stream
        self._ended = threading.Event()
        self._write(f"{desc}: {self._share()}")
        # A thread of its own: a single unit may take longer than the time between two lines.
        self._ticker = threading.Thread(target=self._tick, args=(seconds,), daemon=True)
        self._ticker.start()

    def update(self, n: float = 1) -> None:
        self._done += int(n)

    def skip(self, n: int) -> None:
        self._initial += n
        self._done += n

    def set_postfix(self, *, refresh: bool = True, **values: str) -> None:
        self._postfix = "".join(f", {name} {value}" for name, value in values.items())

    def close(self) -> None:
        if self._ended.is_set():
            return
        self._ended.set()
        self._ticker.join()
        seconds = time.monotonic() - self._started
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
            self._write(self._line())

    def _line(self) -> str:
        seconds = time.monotonic() - self._started
        done = self._done - self._initial
        if not done:
            return f"{self._desc}: {self._share()}, {duration_text(seconds)} so far{self._postfix}"
        left = seconds / done * (self._total - self._done)
        rate = self._rate(done / seconds)
        return f"{self._desc}: {self._share()}, {rate}, {duration_text(left)} left{self._postfix}"

    def _share(self) -> str:
        if self._units == "GB":
            return f"{self._done / 1e9:.2f} of {self._total / 1e9:.2f} GB"
        return f"{self._done:,} of {self._total:,} {self._units}"

    def _rate(self, per_second: float) -> str:
        if self._units == "GB":
            return f"{size_text(per_second)}/s"
        return f"{per_second:.1f}/s" if per_second >= 1 else f"{1 / per_second:.1f} s each"

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


def _is_terminal(stream: TextIO | None) -> bool:
    return stream is not None and stream.isatty()


def _has_widgets() -> bool:
    """In a notebook whose front end can show tqdm's widget."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    if shell is None or type(shell).__name__ != "ZMQInteractiveShell":
        return False
    try:
        import ipywidgets  # noqa: F401
    except ImportError:
        return False
    return True


def _tqdm() -> Any:
    if _has_widgets():
        from tqdm.notebook import tqdm as notebook_bar

        return notebook_bar
    from tqdm import tqdm

    return tqdm
