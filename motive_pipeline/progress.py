"""How far a long job is: a line in the log every few seconds with done, total, rate and time left. Every long job of the pipeline uses it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

log = logging.getLogger(__name__)

REPORT_EVERY_S = 5.0


class Progress:
    """Counts what a job has done, and logs it.

    ``what`` names the job, ``unit`` what it counts. ``total`` is None for a job whose size is not known beforehand. The caller counts up
    ``computed``, ``reused`` (there already; it does not enter the rate) and ``rejected``, then calls :meth:`report`.
    """

    def __init__(self, what: str, total: int | float | None, *, unit: str = "rows", clock: Callable[[], float] = time.monotonic) -> None:
        self.what, self.total, self.unit = what, total, unit
        self.computed: int | float = 0
        self.reused = self.rejected = 0
        self._clock = clock
        self._start = self._last = clock()

    @property
    def done(self) -> int | float:
        """All that needs no more work."""
        return self.computed + self.reused + self.rejected

    def step(self, count: int | float = 1, *, note: str = "") -> None:
        """Count ``count`` units as computed, and report."""
        self.computed += count
        self.report(note=note, last=self.total is not None and self.done >= self.total)

    def report(self, *, last: bool = False, note: str = "") -> None:
        """Log a line if the last one is some seconds old, or if this is the last. ``note`` is added to it ("loss 0.12")."""
        now = self._clock()
        if not last and now - self._last < REPORT_EVERY_S:
            return
        self._last = now
        log.info("%s", self.line(now - self._start, note))

    def line(self, seconds: float, note: str = "") -> str:
        """The line, ``seconds`` after the start."""
        worked = self.computed + self.rejected
        rate = worked / max(seconds, 1e-9)
        of_total = "" if self.total is None else f" of {_number(self.total)}"
        kinds = (
            f" ({_number(self.computed)} computed, {self.reused} reused, {self.rejected} rejected)" if self.reused or self.rejected else ""
        )
        parts = [f"{self.what}: {_number(self.done)}{of_total} {self.unit}{kinds}", f"{rate:.3g} {self.unit}/s"]
        if self.total is not None and self.done < self.total and rate:
            parts.append(f"{(self.total - self.done) / rate:.0f} s left")
        return ", ".join([*parts, *([note] if note else [])])


def _number(value: int | float) -> str:
    """A whole number as it is, another one with one decimal."""
    return str(value) if isinstance(value, int) else f"{value:.1f}"
