"""Every setting as one line of text: its key, its type and its default.

``python -m tests.settings_list`` writes ``tests/settings.txt``, the list that tests/test_settings_list.py compares the code with.
"""

from __future__ import annotations

import types
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from motive_pipeline.config import Config

FILE = Path(__file__).with_name("settings.txt")
LIMITS = ("gt", "ge", "lt", "le", "multiple_of", "min_length", "max_length", "pattern")


def setting_lines(section: type[BaseModel] = Config, prefix: str = "") -> Iterator[str]:
    """``key: type = default`` for each key of ``section`` and of the sections in it, in the order of the code."""
    for name, field in section.model_fields.items():
        key, annotation = prefix + (field.alias or name), field.annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            yield from setting_lines(annotation, key + ".")
        else:
            yield f"{key}: {_limited(_type_text(annotation), field.metadata)}{_default_text(field)}"


def _type_text(annotation: Any) -> str:
    """A type as a person writes it; a choice of words as the words themselves, limits in parentheses."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _limited(_type_text(arguments[0]), arguments[1:])
    if origin is Literal:
        return " | ".join(repr(word) for word in arguments)
    if origin in (Union, types.UnionType):
        return " | ".join(_type_text(part) for part in arguments)
    if annotation is type(None):
        return "null"
    if annotation is Ellipsis:
        return "..."
    name = getattr(origin or annotation, "__name__", str(annotation))
    return f"{name}[{', '.join(map(_type_text, arguments))}]" if arguments else name


def _limited(text: str, metadata: Iterable[Any]) -> str:
    """``text`` with the limits in ``metadata``. A validator is a function and has no text."""
    flat = [part for each in metadata for part in (each.metadata if isinstance(each, FieldInfo) else [each])]
    limits = [f"{name} {value}" for part in flat for name in LIMITS if (value := getattr(part, name, None)) is not None]
    return f"{text} ({', '.join(limits)})" if limits else text


def _default_text(field: FieldInfo) -> str:
    if field.default is PydanticUndefined:
        return "" if field.default_factory is None else f" = {field.default_factory()!r}"  # type: ignore[call-arg]
    return f" = {str(field.default)!r}" if isinstance(field.default, Path) else f" = {field.default!r}"


if __name__ == "__main__":
    FILE.write_text("\n".join(setting_lines()) + "\n", encoding="utf-8")
    print(f"{FILE}: {len(list(setting_lines()))} settings")
