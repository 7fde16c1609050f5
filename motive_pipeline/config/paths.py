"""Relative paths of a config, taken from the folder of its file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypeVar

from motive_pipeline.bucket.address import address_of
from motive_pipeline.config.data import Storage
from motive_pipeline.config.names import FLOW_HISTOGRAM
from motive_pipeline.config.schema import Settings
from motive_pipeline.config.section import Section

STATE_OF_BUCKET = "motive_state"
"""The default of ``storage.state`` where ``storage.root`` is in a bucket: a folder beside the config."""

COPY = "root"
"""The working copy of a root in a bucket, below ``storage.state``."""

CACHE = "cache"
"""Copies of clips and models that are in object storage, below ``storage.state``."""

S = TypeVar("S", bound=Section)
C = TypeVar("C", bound=Settings)


def resolve_paths(config: C, base: Path) -> C:
    """The config with every path absolute, relative ones taken from ``base``; ``storage.state`` defaults to ``<root>/state``.
    With ``storage.root`` in object storage, the root on this machine is a working copy below ``storage.state``.

    ``model.path`` and ``embedding.encoder`` may be hub ids: they are paths if they look like one or name a folder below ``base``.
    """
    encoder, model = config.embedding.encoder, config.model.path
    if encoder != FLOW_HISTOGRAM and _is_path(encoder, base):
        encoder = str(_absolute(Path(encoder), base))
    if _is_path(model, base):
        model = str(_absolute(Path(model), base))
    motion, evaluate, storage = config.motion, config.evaluate, _storage(config.storage, base)
    resolved = config.model_copy(
        update={
            "storage": storage,
            "model": _resolved(config.model.model_copy(update={"path": model}), base, "adapter"),
            "embedding": config.embedding.model_copy(update={"encoder": encoder}),
            "clips": _resolved(config.clips, base, "path", "table"),
            "queries": _resolved(config.queries, base, "path", "table", "held_out_path", "held_out_table"),
            "motion": motion.model_copy(update={"alltracker": _resolved(motion.alltracker, base, "repo", "checkpoint")}),
            "influence": _resolved(config.influence, base, "adam_state"),
            "subset": _resolved(config.subset, base, "edits"),
            "generate": _resolved(config.generate, base, "prompts"),
            "preference": _resolved(config.preference, base, "results_path"),
            "evaluate": evaluate.model_copy(update={"vbench": _resolved(evaluate.vbench, base, "python", "weights")}),
        }
    )
    if storage.state is not None:
        resolved.model._cache = storage.state / CACHE
    resolved._variants = {
        name: own.model_copy(update={"influence": _resolved(own.influence, base, "adam_state")}) for name, own in config._variants.items()
    }
    return resolved


def _storage(storage: Storage, base: Path) -> Storage:
    address = storage.address
    if address is None:
        root = _absolute(storage.root, base)
        state = root / "state" if storage.state is None else _absolute(storage.state, base)
    else:
        state = _absolute(storage.state or Path(STATE_OF_BUCKET), base)
        root = state / COPY
    resolved = storage.model_copy(update={"root": root, "state": state})
    resolved._address = address
    return resolved


def _resolved(section: S, base: Path, *names: str) -> S:
    """The section with the paths ``names`` absolute; those that are not set stay None."""
    paths: dict[str, Path | None] = {name: getattr(section, name) for name in names}
    return section.model_copy(update={name: None if path is None else _absolute(path, base) for name, path in paths.items()})


def _absolute(path: Path, base: Path) -> Path:
    """``path`` taken from ``base``; an address of object storage as it is."""
    return path if address_of(path) is not None else Path(os.path.abspath(base / path.expanduser()))


def _is_path(text: str, base: Path) -> bool:
    return address_of(text) is None and (text.startswith((".", "/", "~")) or (base / text).is_dir())
