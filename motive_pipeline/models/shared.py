"""Components that models in one process share: a checkpoint is its base's components and a transformer of its own.

Importing this imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from motive_pipeline.models.sound import Component
from motive_pipeline.storage.digest import digest_file

OWN = ("scheduler",)
"""Components that every model has of its own: a sampler changes its scheduler."""

_loaded: dict[str, tuple[Path, dict[str, tuple[int, ...]], str, Any]] = {}
"""By component: the folder it was loaded from, its files then, the dtype of the model, and the component."""


def shared_components(parts: Sequence[Component], *, own: str, dtype: str) -> dict[str, Any]:
    """The components among ``parts`` that a model of this process has loaded already: equal files, in the same ``dtype``.

    ``own`` is the component that training changes; it is never shared. Nobody may change the weights of the others.
    """
    found = {}
    for part in parts:
        name = part.folder.name
        if name in (own, *OWN) or name not in _loaded:
            continue
        folder, stats, loaded_dtype, component = _loaded[name]
        if loaded_dtype == dtype and _unchanged(folder, stats) and _equal_files(folder, part.folder):
            found[name] = component
    return found


def remember_components(parts: Sequence[Component], components: Mapping[str, Any], *, own: str, dtype: str) -> None:
    """Let later models use ``components`` of a model that was just loaded. Of each component only the last one loaded is kept."""
    for part in parts:
        name = part.folder.name
        if name not in (own, *OWN) and components.get(name) is not None:
            _loaded[name] = (part.folder, _stats(part.folder), dtype, components[name])


def forget_components() -> None:
    """Forget all components, so that the next model loads its own."""
    _loaded.clear()


def _unchanged(folder: Path, stats: Mapping[str, tuple[int, ...]]) -> bool:
    """Whether the files are those that the component was loaded from."""
    return folder.is_dir() and _stats(folder) == stats


def _equal_files(one: Path, other: Path) -> bool:
    """Whether two folders have the same files: links to one file, or files of equal content (a checkpoint on another disk holds copies)."""
    ours, theirs = _stats(one), _stats(other)
    if ours.keys() != theirs.keys():
        return False
    return all(
        ours[name] == theirs[name]
        or (ours[name][0] == theirs[name][0] and _digest(one / name, ours[name]) == _digest(other / name, theirs[name]))
        for name in ours
    )


def _stats(folder: Path) -> dict[str, tuple[int, ...]]:
    """Size, time, inode and device of each file by its name."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    stats = {path.relative_to(folder).as_posix(): path.stat() for path in files}
    return {name: (stat.st_size, stat.st_mtime_ns, stat.st_ino, stat.st_dev) for name, stat in stats.items()}


@lru_cache(maxsize=1024)
def _digest(file: Path, _stat: tuple[int, ...]) -> str:
    return digest_file(file)
