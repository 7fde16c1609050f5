"""The graph of one project: every asset that its config has, with the assets it reads."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from motive_pipeline.errors import MotiveError, did_you_mean
from motive_pipeline.graph.declare import AssetGroup, Output, Project, Reads, Role, Stage
from motive_pipeline.graph.stages import SOURCES, STAGES


@dataclass(frozen=True, kw_only=True)
class Asset:
    """One asset of a project. ``key`` is ``asset`` or ``asset/lane``; ``reads`` and ``looks_up`` are keys (see :class:`Output`)."""

    key: str
    stage: Stage
    output: Output
    lane: str
    reads: tuple[str, ...]
    looks_up: tuple[str, ...]
    kinds: frozenset[str]
    description: str
    """What it is, for a person; of a subset also how its arm chooses."""

    @property
    def name(self) -> str:
        """The asset without its lane."""
        return self.output.name

    @property
    def group(self) -> AssetGroup:
        """The part of the graph it belongs to."""
        return self.stage.group

    @property
    def role(self) -> Role | None:
        """Whether it has a row for each clip or for each query; None when it is made as a whole."""
        return self.output.role

    @property
    def inputs(self) -> tuple[str, ...]:
        """The assets (no sources) whose publications it is made from."""
        return tuple(dict.fromkeys(key for key in (*self.reads, *self.looks_up) if key not in SOURCES))

    @property
    def arguments(self) -> dict[str, str]:
        """What the publishing function is called with, besides the workspace."""
        lane = {} if self.stage.lanes is None else {self.stage.lanes.argument: self.lane}
        return lane | ({} if self.role is None else {"role": self.role})

    def publish(self, workspace: Any) -> Any:
        """Import the publishing function and call it; it gives the publication."""
        assert self.stage.publish is not None
        return resolve_dotted(self.stage.publish)(workspace, **self.arguments)

    def rows(self, workspace: Any) -> Any:
        """Import the function that computes the stage's rows alone, and call it; it gives a finished run of rows."""
        assert self.stage.rows is not None
        return resolve_dotted(self.stage.rows)(workspace, **self.arguments)


class Graph:
    """All assets of a project.

    Raises:
        ValueError: a stage reads an asset that the project does not have, or two assets read each other. That is a mistake in the declarations.
    """

    def __init__(self, project: Project) -> None:
        declared = {asset.key: asset for stage in STAGES.values() if stage.exists(project) for asset in _assets(stage, project)}
        self.assets: dict[str, Asset] = _parents_first(declared)
        """By key, parents first."""

    def asset(self, key: str) -> Asset:
        """The asset called ``key`` (``latents``, ``voted_ranking/motive``).

        Raises:
            MotiveError: the project has no such asset; the message suggests the nearest.
        """
        if key in self.assets:
            return self.assets[key]
        lanes = [other.key for other in self.assets.values() if other.name == key.split("/")[0] and other.lane]
        if lanes:
            raise MotiveError(f"there is no asset {key!r} under these settings. There are: {', '.join(lanes)}")
        names = list(dict.fromkeys(asset.name for asset in self.assets.values()))
        hint = did_you_mean(key.split("/")[0], names)
        raise MotiveError(f"there is no asset {key!r} under these settings.{hint} There are: {', '.join(names)}")

    def where(self, wanted: Callable[[Asset], bool]) -> list[str]:
        """The keys of the assets that ``wanted`` accepts, parents first."""
        return [key for key, asset in self.assets.items() if wanted(asset)]

    @cached_property
    def rejecting(self) -> list[str]:
        """The assets whose publications list what they could not use."""
        return self.where(lambda asset: asset.stage.rejects)

    @cached_property
    def screening(self) -> list[str]:
        """The assets that a clip needs a row in to enter the eligible pool."""
        return self.where(lambda asset: asset.output.screens_clips)

    def ancestors(self, keys: Iterable[str]) -> set[str]:
        """All assets and sources that ``keys`` are made from, directly or not; ``keys`` themselves are left out unless one is made from another."""
        found: set[str] = set()
        waiting = [key for key in keys if key in self.assets]
        while waiting:
            for parent in self.assets[waiting.pop()].reads:
                if parent not in found:
                    found.add(parent)
                    waiting += [parent] if parent in self.assets else []
        return found

    def with_ancestors(self, keys: Iterable[str]) -> list[str]:
        """The assets ``keys`` and all assets (no sources) that they are made from, parents first.

        Raises:
            MotiveError: the project has no such asset.
        """
        wanted = [self.asset(key).key for key in keys]
        found = self.ancestors(wanted).union(wanted)
        return [key for key in self.assets if key in found]


def resolve_dotted(name: str) -> Any:
    """The object called ``module:name``; its module is imported now."""
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)


def _assets(stage: Stage, project: Project) -> Iterable[Asset]:
    kinds = stage.kinds(project) if callable(stage.kinds) else stage.kinds
    for output in stage.outputs:
        for lane in stage.lanes.of(project) if stage.lanes else ("",):
            yield Asset(
                key=f"{output.name}/{lane}" if lane else output.name,
                stage=stage,
                output=output,
                lane=lane,
                reads=_read(output.reads, project, lane),
                looks_up=_read(output.looks_up, project, lane),
                kinds=kinds,
                description=output.description + (f" {project.arm(lane).description}" if output.name == "curated_subset" else ""),
            )


def _read(reads: Reads, project: Project, lane: str) -> tuple[str, ...]:
    return tuple(reads(project, lane) if callable(reads) else reads)


def _parents_first(declared: dict[str, Asset]) -> dict[str, Asset]:
    """The assets in the order of their declaration, each moved behind what it reads."""
    ordered: dict[str, Asset] = {}

    def place(key: str, path: Sequence[str]) -> None:
        if key in ordered or key in SOURCES:
            return
        if key not in declared:
            raise ValueError(f"{path[-1]} reads {key}, which is neither a source nor an asset of this project")
        if key in path:
            raise ValueError(f"these assets read each other: {' <- '.join([*path[path.index(key) :], key])}")
        for parent in (*declared[key].reads, *declared[key].looks_up):
            place(parent, [*path, key])
        ordered[key] = declared[key]

    for key in declared:
        place(key, [])
    return ordered
