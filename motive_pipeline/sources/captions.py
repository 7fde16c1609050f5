"""Captions and the publisher's metadata of a video, from a row of a table or from a text or JSON file beside the video."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from motive_pipeline.sources.protocol import Scalar

CAPTION_COLUMNS = ("caption", "prompt", "text", "cap", "captions", "description")
"""Names of caption columns in data sets and trainers. The first one that a row has counts."""

MAX_CAPTION_BYTES = 2**16
MAX_SIDECAR_BYTES = 2**20
MAX_METADATA_CHARACTERS = 2000
"""A longer value is not a number, label or name. The catalog leaves it out."""

_UNUSABLE = {"status": lambda value: value != "success", "valid": lambda value: value is False or str(value).lower() == "false"}
"""Columns in which a publisher marks failed videos: video2dataset writes ``status``, cosmos-curate ``valid``."""

LONE_SURROGATE = "half of a character (a lone surrogate), which is not valid text"


class CaptionError(ValueError):
    """A caption that cannot be used."""


class NoAnnotation(CaptionError):
    """A JSON file beside a video that holds something else than its caption, such as a list of tracks."""


@dataclass(frozen=True, kw_only=True)
class Annotation:
    """What a data set says of one video.

    ``captions`` are all captions, the clip's own first; None if there is none. ``problem`` is (reason, detail) if the video cannot be used.
    """

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
    """The annotation in a row of a table or in a JSON object. ``without`` are columns that are not metadata, such as that of the file.

    Raises:
        CaptionError: the caption is not text, or too long.
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
    """The annotation in a ``.txt`` or ``.json`` file beside a video.

    Raises:
        CaptionError: the file cannot be used; :class:`NoAnnotation` if it is not an annotation at all.
        OSError: the file cannot be read.
    """
    with open(file, "rb") as opened:
        return parse_sidecar(opened.read(MAX_SIDECAR_BYTES + 1), os.path.basename(file))


def parse_sidecar(data: bytes, name: str) -> Annotation:
    """The annotation in the bytes of the ``.txt`` or ``.json`` file ``name``.

    Raises:
        CaptionError: the bytes cannot be used; :class:`NoAnnotation` if they are not an annotation at all.
    """
    if not name.lower().endswith(".json"):
        return Annotation(captions=(parse_caption(data, name),))
    if len(data) > MAX_SIDECAR_BYTES:
        raise NoAnnotation(f"{name} has more than {MAX_SIDECAR_BYTES} bytes")
    try:
        values = json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise CaptionError(f"{name} is not JSON ({error})") from error
    if not isinstance(values, dict):
        raise NoAnnotation(f"{name} holds no JSON object")
    if has_lone_surrogate(values):
        raise CaptionError(f"{name} holds {LONE_SURROGATE}")
    return annotation_of_row(values)


def parse_caption(data: bytes, name: str) -> str:
    """The caption in the bytes of the text file ``name``: UTF-8, or UTF-16 with a byte order mark.

    Raises:
        CaptionError: the bytes are no such text, or too many for a caption.
    """
    if len(data) > MAX_CAPTION_BYTES:
        raise CaptionError(f"the caption file {name} has more than {MAX_CAPTION_BYTES} bytes")
    encoding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        raise CaptionError(f"the caption file {name} is not UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8") from error
    return one_line(text)


def one_line(text: str) -> str:
    """``text`` with every run of white space, line ends (U+2028 too) and NULs as one space."""
    return " ".join(text.replace("\0", " ").split())


def has_lone_surrogate(value: Any) -> bool:
    """Whether a text in a JSON value is not valid Unicode: ``"\\ud83c"`` without its other half, from a caption cut inside an emoji."""
    try:
        json.dumps(value, ensure_ascii=False, default=str).encode()
    except UnicodeEncodeError:
        return True
    return False


def _captions(value: Any, name: str) -> tuple[str, ...] | None:
    """The captions in a cell: a text, a list of texts, or (Vript) an object with the text under ``content``. None for null."""
    if isinstance(value, dict):
        value = value.get("content", value.get("caption", value))
    if value is None or value != value:  # NaN is the null of a table of numbers
        return None
    texts = value if isinstance(value, list) else [value]
    if not all(isinstance(text, str | int | float) for text in texts):
        raise CaptionError(f"{name} holds no text")
    if any(len(str(text).encode("utf-8", "replace")) > MAX_CAPTION_BYTES for text in texts):
        raise CaptionError(f"{name} has more than {MAX_CAPTION_BYTES} bytes")
    return tuple(one_line(str(text)) for text in texts)


def _windowed(windows: Any) -> tuple[str, ...] | None:
    """The caption in cosmos-curate's ``windows[0]``: the first key that ends in ``_caption``."""
    first = windows[0] if isinstance(windows, list) and windows and isinstance(windows[0], dict) else {}
    return next((_captions(text, key) for key, text in first.items() if key.endswith("_caption")), None)


def _cell(value: Any) -> Scalar | None:
    """A value as the catalog keeps it: nested values as JSON text; None for empty ones, bytes, NaN, infinity and very long texts."""
    if isinstance(value, dict | list | tuple):
        value = json.dumps(value, ensure_ascii=False, default=str)
    if value is None or value == "" or isinstance(value, bytes) or (isinstance(value, float) and not math.isfinite(value)):
        return None
    if isinstance(value, str):
        return one_line(value) if len(value) <= MAX_METADATA_CHARACTERS else None
    return value if isinstance(value, bool | int | float) else str(value)
