"""What a data set says of a video: its caption, and whatever else a row of its table or a JSON file beside the video holds."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from motive_pipeline.sources.protocol import MAX_CAPTION_BYTES, CaptionError, Scalar, one_line, parse_caption

CAPTION_COLUMNS = ("caption", "prompt", "text", "cap", "captions", "description")
"""Names under which data sets and trainers keep captions, in the order in which they are looked for."""

MAX_SIDECAR_BYTES = 2**20
MAX_METADATA_CHARACTERS = 2000
"""A value longer than this is no number, label or name; it is left out of the catalog."""

_UNUSABLE = {"status": lambda value: value != "success", "valid": lambda value: value is False or str(value).lower() == "false"}
"""video2dataset writes ``status``, cosmos-curate ``valid``; where the publisher says that a video failed, it is no clip."""


LONE_SURROGATE = "half of a character (a lone surrogate), which is no valid text"


def has_lone_surrogate(value: Any) -> bool:
    """Whether a text in what JSON gave is no valid Unicode: ``"\\ud83c"`` without its other half, as a caption cut in the middle of an emoji."""
    try:
        json.dumps(value, ensure_ascii=False, default=str).encode()
    except UnicodeEncodeError:
        return True
    return False


@dataclass(frozen=True, kw_only=True)
class Annotation:
    """``captions`` are all that there are; the first is the clip's. None: nothing was said. ``problem`` is (reason, detail)."""

    captions: tuple[str, ...] | None = None
    metadata: Mapping[str, Scalar] = field(default_factory=dict)
    category: str = ""
    problem: tuple[str, str] | None = None

    @property
    def caption(self) -> str | None:
        """The clip's caption, or None."""
        return None if self.captions is None else next(iter(self.captions), "")


def annotation_of_row(
    values: Mapping[str, Any], *, caption_columns: Sequence[str] = CAPTION_COLUMNS, without: Sequence[str] = ()
) -> Annotation:
    """What a row or a JSON object says. ``without`` are columns that name the file.

    Raises:
        CaptionError: the caption is no text, or far too long.
    """
    name = next((column for column in caption_columns if column in values), None)
    captions = None if name is None else _captions(values[name], name)
    if name is None and (windows := values.get("windows")):
        captions = _windowed(windows)
    metadata = {key: cell for key, value in values.items() if key not in (name, *without, "windows") and (cell := _cell(value)) is not None}
    failed = next((key for key, is_bad in _UNUSABLE.items() if key in values and is_bad(values[key])), None)
    detail = f"the publisher's {failed} is {values[failed]!r}" if failed else ""
    return Annotation(
        captions=captions,
        metadata=metadata,
        category=str(values.get("category") or ""),
        problem=("source_failed", f"{detail}: {values.get('error_message') or 'not usable'}") if failed else None,
    )


def read_sidecar(file: str | Path) -> Annotation:
    """What a ``.txt`` or ``.json`` file beside a video says.

    Raises:
        CaptionError: it cannot be used.
        OSError: it cannot be read.
    """
    with open(file, "rb") as opened:
        return parse_sidecar(opened.read(MAX_SIDECAR_BYTES + 1), os.path.basename(file))


def parse_sidecar(data: bytes, name: str) -> Annotation:
    """What the bytes of the ``.txt`` or ``.json`` file ``name`` say.

    Raises:
        CaptionError: they cannot be used.
    """
    if not name.lower().endswith(".json"):
        return Annotation(captions=(parse_caption(data, name),))
    if len(data) > MAX_SIDECAR_BYTES:
        raise CaptionError(f"{name} has more than {MAX_SIDECAR_BYTES} bytes")
    try:
        values = json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise CaptionError(f"{name} is no JSON ({error})") from error
    if not isinstance(values, dict):
        raise CaptionError(f"{name} holds no JSON object")
    if has_lone_surrogate(values):
        raise CaptionError(f"{name} holds {LONE_SURROGATE}")
    return annotation_of_row(values)


def _captions(value: Any, name: str) -> tuple[str, ...] | None:
    """The captions in a cell: a text, a list of texts, or (Vript) an object with the text under ``content``; None for null."""
    if isinstance(value, dict):
        value = value.get("content", value.get("caption", value))
    if value is None or value != value:  # a NaN is what a table of numbers has for nothing
        return None
    texts = value if isinstance(value, list) else [value]
    if not all(isinstance(text, str | int | float) for text in texts):
        raise CaptionError(f"{name} holds no text")
    if any(len(str(text).encode("utf-8", "replace")) > MAX_CAPTION_BYTES for text in texts):
        raise CaptionError(f"{name} has more than {MAX_CAPTION_BYTES} bytes")
    return tuple(one_line(str(text)) for text in texts)


def _windowed(windows: Any) -> tuple[str, ...] | None:
    """cosmos-curate's ``windows[0]``: the first key that ends in ``_caption``."""
    first = windows[0] if isinstance(windows, list) and windows and isinstance(windows[0], dict) else {}
    return next((_captions(text, key) for key, text in first.items() if key.endswith("_caption")), None)


def _cell(value: Any) -> Scalar | None:
    """A value as the catalog keeps it; what is nested as JSON text, what is empty, no number or very long not at all."""
    if isinstance(value, dict | list | tuple):
        value = json.dumps(value, ensure_ascii=False, default=str)
    if value is None or value == "" or isinstance(value, bytes) or (isinstance(value, float) and not math.isfinite(value)):
        return None
    if isinstance(value, str):
        return one_line(value) if len(value) <= MAX_METADATA_CHARACTERS else None
    return value if isinstance(value, bool | int | float) else str(value)
