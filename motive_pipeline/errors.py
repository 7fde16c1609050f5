"""The errors a user can cause, and the rejection of one row."""

import difflib
from collections.abc import Iterable
from pathlib import Path


class MotiveError(Exception):
    """Something the user can mend. The message says what was wrong, where, and what to do."""


class ConfigError(MotiveError):
    """A setting that cannot be used; names the YAML key, the value and what is allowed."""


def error_with_file(error: MotiveError, file: Path) -> str:
    """The message of ``error``; about a setting, it names the config ``file`` that is in use."""
    text = str(error)
    return f"{text} (settings: {file})" if isinstance(error, ConfigError) and str(file) not in text else text


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A sentence, with a space before it, that suggests the one of ``known`` whose spelling is closest to ``name``; empty if none is close."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" Did you mean {close[0]!r}?" if close else ""


class NotPublished(MotiveError):
    """An asset has nothing published that is whole."""


class GateFailed(MotiveError):
    """A stage refused to publish: its result must stop the pipeline, and the asset fails."""


class RejectRow(Exception):
    """One row cannot be used; the run goes on and the row is listed with this reason.

    ``reason`` is a short code (``decode_error``, ``no_motion``); ``detail`` a sentence for a person.
    ``transient`` marks a reason that may not hold next time (out of memory): such a row is tried again.
    """

    def __init__(self, reason: str, detail: str, *, transient: bool = False) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail
        self.transient = transient
