"""``motive init``: checks the folders of a person, writes settings for them, and says what was found."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from motive_pipeline.bucket.address import address_of
from motive_pipeline.config import Clips, Config, parse_config
from motive_pipeline.doctor import Finding
from motive_pipeline.errors import MotiveError
from motive_pipeline.models.folder import input_rules, named
from motive_pipeline.models.input_rules import require_fitting_settings
from motive_pipeline.models.read_shapes import model_shape
from motive_pipeline.sources.configured import build_source
from motive_pipeline.sources.protocol import require_folder
from motive_pipeline.starter.layout import recognise
from motive_pipeline.starter.look import Look, look_at, shared_files
from motive_pipeline.starter.presets import Preset, preset_for
from motive_pipeline.starter.settings import Folder, fitting_min_frames, settings_text
from motive_pipeline.storage import atomic
from motive_pipeline.storage.layout import require_apart

_KEYS = {"FOLDER": "clips.path", "--queries": "queries.path", "--held-out": "queries.held_out_path"}
"""The options that name folders, and the keys of the config that they become."""

_FEW_QUERIES = 3
_SHOWN = 3


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What ``motive init`` was asked for."""

    clips: Path
    queries: Path
    held_out: Path | None
    model: str
    file: Path


@dataclass(frozen=True, kw_only=True)
class Started:
    """The settings that were written, and what was found about each folder and the model. ``has_forecast``: `motive plan` can tell what a GPU would take."""

    config: Config
    preset: Preset
    findings: list[Finding]
    num_clips: int
    has_forecast: bool


def start(wish: Wish) -> Started:
    """Check the folders, write ``wish.file``, and look into the videos. Nothing is ever overwritten.

    Raises:
        MotiveError: a folder is missing, holds no videos or lies in another one, the model is not known, or the file exists.
    """
    file = _absolute(wish.file)
    if os.path.lexists(file):
        raise MotiveError(
            f"{file} exists, and nothing is overwritten. Edit it, run `motive rank --config {wish.file}`, or name another with --write."
        )
    folders = {"FOLDER": wish.clips, "--queries": wish.queries} | ({} if wish.held_out is None else {"--held-out": wish.held_out})
    folders = {option: _folder(option, folder) for option, folder in folders.items()}
    _require_apart(folders)
    preset = preset_for(wish.model)
    parts = {option: _examined(option, folder, file, preset) for option, folder in folders.items()}
    clips, queries, held_out = (parts.get(option) for option in _KEYS)
    assert clips is not None
    assert queries is not None
    if held_out is not None and held_out.source != queries.source:
        raise MotiveError(
            f"--held-out {wish.held_out} is laid out as {held_out.source}, --queries {wish.queries} as {queries.source}; one key, queries.source, is "
            "for both. Bring the held-out videos into the layout of the queries."
        )
    asked = [length for part in (queries, held_out) if part is not None for length in part.look.num_frames]
    min_frames = fitting_min_frames(preset, clips.look.num_frames, asked)
    model = _absolute(Path(wish.model))
    text = settings_text(
        file=file, preset=preset, model=str(model) if model.is_dir() else wish.model, clips=clips, queries=queries, held_out=held_out,
        min_frames=min_frames,
    )  # fmt: skip
    config = parse_config(text, file)
    require_apart(config)
    findings = [*_findings(config, {option: part.look for option, part in parts.items()}), _model_finding(config, preset)]
    file.parent.mkdir(parents=True, exist_ok=True)
    atomic.write_bytes(file, text.encode())
    has_forecast = not preset.is_plumbing and model_shape(config.model) is not None
    return Started(config=config, preset=preset, findings=findings, num_clips=clips.look.num_videos, has_forecast=has_forecast)


def _examined(option: str, path: Path, file: Path, preset: Preset) -> Folder:
    """What the folder ``path`` holds, and how the config at ``file`` names it.

    Raises:
        MotiveError: none of its videos can be used.
    """
    found = recognise(path)
    source = build_source(Clips(source=found.source, path=path), path=path, table=found.table, key=_KEYS[option])  # pyright: ignore[reportArgumentType]
    look = look_at(source, fps=float(preset.clips["fps"]))
    if not look.num_frames:
        first = f" {look.broken[0][0]}: {look.broken[0][1]}." if look.broken else ""
        raise MotiveError(f"{option} {path}: none of its videos can be used (read as source: {found.source}).{first}")
    table = None if found.table is None else _as_written(found.table, file)
    return Folder(path=_as_written(path, file), source=found.source, table=table, look=look)


def _folder(option: str, folder: Path) -> Path:
    """``folder`` as an absolute path.

    Raises:
        MotiveError: it is not a folder on this machine that can be listed, or its name is not text.
    """
    if address_of(folder) is not None:
        raise MotiveError(
            f"{option} {address_of(folder)}: `motive init` looks into folders on this machine. For clips in a bucket, write its URL as clips.path "
            "into a config of your own (docs/object_storage.md)."
        )
    folder = _absolute(folder)
    try:
        str(folder).encode()
    except UnicodeEncodeError as error:
        raise MotiveError(
            f"{option} {os.fsencode(folder)!r}: the name is not valid UTF-8, so no config can hold it. Rename the folder."
        ) from error
    require_folder(folder, option)
    return folder


def _require_apart(folders: dict[str, Path]) -> None:
    """Raise MotiveError if one folder is another one or lies in it; held-out queries may lie among the queries."""
    resolved = {option: folder.resolve() for option, folder in folders.items()}
    for inner, folder in resolved.items():
        for outer, other in resolved.items():
            if inner == outer or not folder.is_relative_to(other):
                continue
            if folder == other:
                raise MotiveError(
                    f"{inner} and {outer} are the same folder, {folders[inner]}. A query that is also a clip votes for itself, and a held-out query "
                    "must have taken part in nothing: put them into folders of their own."
                )
            if (inner, outer) != ("--held-out", "--queries"):
                raise MotiveError(
                    f"{inner} {folders[inner]} lies inside {outer} {folders[outer]}: its videos would be taken for both. Move it out."
                )


def _absolute(path: Path) -> Path:
    """``path`` from the working folder; ``~`` is the home folder, unless there is a file or folder so called."""
    return Path(os.path.abspath(path if path.exists() else os.path.expanduser(path)))


def _as_written(path: Path, file: Path) -> str:
    """``path`` relative to the folder of the config ``file`` if it lies below it, else absolute. A config takes ``~`` for a home folder."""
    relative = path.relative_to(file.parent).as_posix() if path.is_relative_to(file.parent) else "~"
    return str(path) if relative.startswith("~") else relative


def _findings(config: Config, looks: dict[str, Look]) -> Iterator[Finding]:
    """A line for each folder, then what is unusual."""
    clips = looks["FOLDER"]
    yield _counted("clips", clips, f"{config.clips.path} (source: {config.clips.source})")
    yield _counted("queries", looks["--queries"], f"{config.queries.path} (source: {config.queries.source})")
    if "--held-out" in looks:
        yield _counted("held-out", looks["--held-out"], f"{config.queries.held_out_path}")
    if clips.broken_share > config.clips.max_reject_share:
        detail = f"{clips.broken_share:.0%} cannot be used; clips.max_reject_share stops a run at {config.clips.max_reject_share:.0%}. Remove them, or raise the key"
        yield Finding(status="fail", about="clips", detail=detail)
    for about, look in (("queries", looks["--queries"]), ("held-out", looks.get("--held-out"))):
        if look is None:
            continue
        if look.broken:
            detail = "every query must be usable (queries.max_reject_share: 0): mend or remove what cannot be used, or raise the key"
            yield Finding(status="fail", about=about, detail=detail)
        if look.num_without_caption:
            detail = f"{look.num_without_caption} have no caption: ranking works without, `motive run` uses them as prompts. Put a .txt file beside each"
            yield Finding(status="warn", about=about, detail=detail)
        if shared := shared_files(clips, look):
            detail = f"also among the clips: {_some(shared)}. Such a query votes for itself: take it out of one of the folders"
            yield Finding(status="warn", about=about, detail=detail)
        yield from _too_short(config, about, look)
    if config.clips.min_frames is not None:
        short = sum(length < config.clips.num_frames for look in looks.values() for length in look.num_frames)
        detail = (
            f"{short} of the videos, queries included, give fewer than {config.clips.num_frames} frames at {config.clips.fps:g} a second; clips.min_frames: "
            f"{config.clips.min_frames} is set so that they are used as they are"
        )
        yield Finding(status="warn", about="length", detail=detail)
    yield from _too_short(config, "clips", clips)
    if looks["--queries"].num_videos < _FEW_QUERIES:
        detail = f"{looks['--queries'].num_videos} only: below {_FEW_QUERIES} there are no intervals, and one odd query decides much (docs/queries.md)"
        yield Finding(status="warn", about="queries", detail=detail)


def _counted(about: str, look: Look, where: str) -> Finding:
    opened = "all opened" if look.num_opened == look.num_videos else f"{look.num_opened} of them opened"
    captions = f"{look.num_videos - look.num_without_caption} with a caption"
    categories = f"; categories: {_some(look.categories)}" if about != "clips" and look.categories else ""
    what = f"{look.num_videos} videos in {where}, {captions}, {opened}{categories}"
    if not look.broken:
        return Finding(status="ok", about=about, detail=what)
    broken = [f"{name} ({why})" for name, why in look.broken]
    return Finding(status="warn", about=about, detail=f"{what}. {len(broken)} cannot be used: {_some(broken)}")


def _too_short(config: Config, about: str, look: Look) -> Iterator[Finding]:
    needed = config.min_frames
    if short := sum(length < needed for length in look.num_frames):
        status = "fail" if about != "clips" or short / len(look.num_frames) > config.clips.max_reject_share else "warn"
        detail = (
            f"{short} of {len(look.num_frames)} give fewer than {needed} frames at {config.clips.fps:g} a second ({needed / config.clips.fps:.1f} s), and are "
            "rejected. Use longer videos, or lower clips.min_frames"
        )
        yield Finding(status=status, about=about, detail=detail)


def _model_finding(config: Config, preset: Preset) -> Finding:
    if preset.is_plumbing:
        detail = "tiny: plumbing only. It knows nothing but generated discs, so its ranking shows how everything works and says nothing about your clips"
        return Finding(status="warn", about="model", detail=detail)
    if not Path(config.model.path).is_dir():
        return Finding(status="ok", about="model", detail=f"{config.model.path}: {preset.label}; the first run downloads it")
    try:
        require_fitting_settings(input_rules(config.model), config, named(config.model))
    except MotiveError as error:
        return Finding(status="fail", about="model", detail=str(error))
    return Finding(status="ok", about="model", detail=f"{config.model.path}: settings of {preset.label}, which its files fit")


def _some(names: Sequence[str]) -> str:
    rest = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")
