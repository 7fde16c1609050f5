"""Find the clip or query that a user names: by id, by the first digits of an id, by file, or by file name."""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pandas as pd

from motive_pipeline.errors import MotiveError
from motive_pipeline.files.hash_memory import ID_DIGITS, clip_id_of
from motive_pipeline.files.media_file import MediaFile
from motive_pipeline.files.window import split_location
from motive_pipeline.storage.digest import digest_file
from motive_pipeline.storage.workspace import Workspace
from motive_pipeline.visible_text import visible_text

LEAST_PREFIX = 4
_SHOWN = 5


@dataclass(frozen=True, kw_only=True)
class KnownClip:
    """One file content that the pipeline knows: its paths and its roles (``clip``, ``query``, ``held_out``; none if it was rejected).

    ``clip_id`` is empty for a file that could not be read.
    """

    clip_id: str
    paths: Sequence[str]
    roles: frozenset[str]


def load_known_clips(ws: Workspace) -> list[KnownClip]:
    """Every clip and query of the catalogs, and every file that a stage rejected.

    Raises:
        NotPublished: there is no catalog yet.
    """
    clips = ws.published("clip_catalog").table("catalog").assign(role="clip")
    queries = ws.published("query_catalog").table("queries").rename(columns={"query_id": "clip_id"})
    columns = ["clip_id", "path", "sources", "role"]
    found: dict[str, tuple[list[str], set[str]]] = {}
    for clip_id, path, sources, role in pd.concat([clips[columns], queries[columns]]).itertuples(index=False):
        paths, roles = found.setdefault(str(clip_id), ([], set()))
        paths += [str(path), *_source_paths(str(path), json.loads(str(sources)))]
        roles.add(str(role))
    for clip_id, path in _rejects(ws):
        paths, _ = found.setdefault(clip_id or f"?{path}", ([], set()))
        paths.append(path)
    return [
        KnownClip(clip_id="" if key.startswith("?") else key, paths=list(dict.fromkeys(paths)), roles=frozenset(roles))
        for key, (paths, roles) in found.items()
    ]


def find_clip(known: Sequence[KnownClip], name: str) -> KnownClip:
    """The one clip that ``name`` names: an id or its first digits, a file (found by content, wherever it lies now), or a file name. A file of which
    only windows are clips names these.

    Raises:
        MotiveError: no clip matches, or more than one.
    """
    for matches in _matches(known, name):
        if len(matches) == 1:
            return matches[0]
        if matches:
            listed = "\n".join(f"  {each.clip_id or '(no id)':{ID_DIGITS}}  {visible_text(each.paths[0])}" for each in matches[:_SHOWN])
            more = f"\n  and {len(matches) - _SHOWN} more" if len(matches) > _SHOWN else ""
            raise MotiveError(f"{name!r} matches {len(matches)} clips; give the whole id or the path:\n{listed}{more}")
    names = sorted({os.path.basename(path) for each in known for path in each.paths} | {each.clip_id for each in known if each.clip_id})
    close = difflib.get_close_matches(os.path.basename(name), names, n=3)
    hint = f" Similar names: {', '.join(map(visible_text, close))}." if close else ""
    num_clips = sum("clip" in each.roles for each in known)
    raise MotiveError(
        f"no clip or query is called {name!r}.{hint} Give an id (at least its first {LEAST_PREFIX} digits), the path of a video, or a file name. "
        f"The tables clips and queries (`motive sql`) list them all, {num_clips} clips among them. A file that was added since the last "
        "`motive run` is not known yet."
    )


def _matches(known: Sequence[KnownClip], name: str) -> Iterator[list[KnownClip]]:
    """The matches of each way to name a clip, in order of preference."""
    yield [each for each in known if each.clip_id == name]
    path = os.path.abspath(os.path.expanduser(name))
    yield [each for each in known if path in each.paths]
    file = MediaFile.parse(path)
    if file.path.is_file() and not file.member:
        clip_id = clip_id_of(digest_file(file.path), file.window)
        yield [each for each in known if each.clip_id == clip_id]
    if re.fullmatch(f"[0-9a-f]{{{LEAST_PREFIX},{ID_DIGITS}}}", name):
        yield [each for each in known if each.clip_id.startswith(name)]
    yield [each for each in known if any(os.path.basename(path) == name for path in each.paths)]
    of_file = [(each, {split_location(other)[0] for other in each.paths}) for each in known]
    yield [each for each, files in of_file if path in files]
    yield [each for each, files in of_file if name in map(os.path.basename, files)]


def _source_paths(path: str, sources: Sequence[str]) -> list[str]:
    """The paths of all files with the same content. ``sources`` are their names relative to the source's folder; ``path`` is the first file."""
    folder = path[: len(path) - len(sources[0])] if sources and path.endswith(sources[0]) else ""
    return [folder + name for name in sources] if folder else []


def _rejects(ws: Workspace) -> Iterator[tuple[str, str]]:
    """(clip_id or an empty text, path) of everything that a stage rejected."""
    for asset in ws.graph.rejecting:
        if publication := ws.published_or_none(asset):
            frame = publication.rejects()
            yield from zip(frame["clip_id"].astype(str), frame["path"].astype(str), strict=True)
