"""Which clip or query a person means: by its id, the beginning of its id, its file, or its file's name."""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from motive_pipeline.errors import MotiveError
from motive_pipeline.files.hash_memory import ID_DIGITS
from motive_pipeline.storage.digest import digest_file
from motive_pipeline.storage.workspace import Workspace

LEAST_PREFIX = 4
_SHOWN = 5


@dataclass(frozen=True, kw_only=True)
class Known:
    """One content that the pipeline has met: its files, and what it is: ``clip``, ``query``, ``held_out``, or none of them (rejected).

    ``clip_id`` is empty for a file that could not even be read.
    """

    clip_id: str
    paths: Sequence[str]
    roles: frozenset[str]


def load_known(ws: Workspace) -> list[Known]:
    """Everything in the catalogs, and every file that a stage rejected.

    Raises:
        NotPublished: there is no catalog yet.
    """
    clips = ws.published("clip_catalog").table("catalog").assign(role="clip")
    queries = ws.published("query_catalog").table("queries").rename(columns={"query_id": "clip_id"})
    columns = ["clip_id", "path", "sources", "role"]
    found: dict[str, tuple[list[str], set[str]]] = {}
    for clip_id, path, sources, role in pd.concat([clips[columns], queries[columns]]).itertuples(index=False):
        paths, roles = found.setdefault(str(clip_id), ([], set()))
        paths += [str(path), *_beside(str(path), json.loads(str(sources)))]
        roles.add(str(role))
    for clip_id, path in _rejects(ws):
        paths, _ = found.setdefault(clip_id or f"?{path}", ([], set()))
        paths.append(path)
    return [
        Known(clip_id="" if key.startswith("?") else key, paths=list(dict.fromkeys(paths)), roles=frozenset(roles))
        for key, (paths, roles) in found.items()
    ]


def find(known: Sequence[Known], name: str) -> Known:
    """The one that ``name`` means: an id or its beginning, a file (found by its content, wherever it lies now), or a file's name.

    Raises:
        MotiveError: none, or more than one.
    """
    for matches in _matches(known, name):
        if len(matches) == 1:
            return matches[0]
        if matches:
            listed = "\n".join(f"  {each.clip_id or '(no id)':{ID_DIGITS}}  {each.paths[0]}" for each in matches[:_SHOWN])
            more = f"\n  and {len(matches) - _SHOWN} more" if len(matches) > _SHOWN else ""
            raise MotiveError(f"{name!r} may mean {len(matches)} clips; give the whole id or the path:\n{listed}{more}")
    names = sorted({os.path.basename(path) for each in known for path in each.paths} | {each.clip_id for each in known if each.clip_id})
    close = difflib.get_close_matches(os.path.basename(name), names, n=3)
    hint = f" Near it: {', '.join(close)}." if close else ""
    num_clips = sum("clip" in each.roles for each in known)
    raise MotiveError(
        f"no clip or query is called {name!r}.{hint} Give an id ({LEAST_PREFIX} or more of its first digits), the path of a video, or a file's "
        f"name; the tables clips and queries (`motive sql`) list all, {num_clips} clips among them. A file that was added since the last "
        "`motive run` is not known yet."
    )


def _matches(known: Sequence[Known], name: str) -> Iterator[list[Known]]:
    """What matches, in one way after the other."""
    yield [each for each in known if each.clip_id == name]
    path = os.path.abspath(os.path.expanduser(name))
    yield [each for each in known if path in each.paths]
    if os.path.isfile(path):
        clip_id = digest_file(Path(path))[:ID_DIGITS]
        yield [each for each in known if each.clip_id == clip_id]
    if re.fullmatch(f"[0-9a-f]{{{LEAST_PREFIX},{ID_DIGITS}}}", name):
        yield [each for each in known if each.clip_id.startswith(name)]
    yield [each for each in known if any(os.path.basename(path) == name for path in each.paths)]


def _beside(path: str, sources: Sequence[str]) -> list[str]:
    """The paths of all files of a content: ``sources`` are their names below the folder that ``path``, the first of them, lies in."""
    folder = path[: len(path) - len(sources[0])] if sources and path.endswith(sources[0]) else ""
    return [folder + name for name in sources] if folder else []


def _rejects(ws: Workspace) -> Iterator[tuple[str, str]]:
    """(clip_id or nothing, path) of everything that a stage rejected."""
    for asset in ws.graph.rejecting:
        if ws.has_published(asset):
            frame = ws.published(asset).rejects()
            yield from zip(frame["clip_id"].astype(str), frame["path"].astype(str), strict=True)
