"""The vocabulary of the graph: what a source, a stage and an output of a stage declare."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

Role = Literal["clip", "query"]
AssetGroup = Literal["sources", "clips", "motion", "attribution", "curation", "training", "evaluation"]

CURATION_GROUPS: tuple[AssetGroup, ...] = ("clips", "motion", "attribution", "curation")
"""The groups that lead from the files to the curated subsets."""


@runtime_checkable
class Project(Protocol):
    """What the graph asks of a config."""

    @property
    def arms(self) -> Sequence[str]: ...

    @property
    def variants(self) -> Sequence[str]: ...

    @property
    def lead_variant(self) -> str: ...

    def arm(self, name: str) -> Any: ...

    def of_variant(self, name: str) -> Any: ...

    @property
    def comparisons(self) -> Sequence[tuple[str, str]]: ...

    def setting(self, dotted: str) -> Any: ...


Reads = Sequence[str] | Callable[[Project, str], Iterable[str]]
"""Keys of assets and sources; where they depend on settings or on the lane, a function of (project, lane)."""

Kinds = frozenset[str] | Callable[[Project], frozenset[str]]

Switch = tuple[str, object] | Callable[[Project], bool]
"""A setting and its value (or one of its values, where it is a list), or a condition on the project."""


@dataclass(frozen=True, kw_only=True)
class Lanes:
    """Copies of a stage, one for each gradient variant or arm. ``argument`` is the parameter of the publishing function that takes the lane;
    ``settings`` gives the project's settings as they are for a lane, ``choice`` what else decides a lane's result."""

    argument: str
    of: Callable[[Project], Sequence[str]]
    settings: Callable[[Any, str], Any] = lambda project, lane: project
    choice: Callable[[Any, str], Mapping[str, Any]] = lambda project, lane: {}


@dataclass(frozen=True, kw_only=True)
class Output:
    """One asset of a stage (with lanes: one for each lane).

    ``reads`` are the assets and sources whose change makes it stale. ``looks_up`` are assets in which it looks up names (paths, captions)
    and whose content reaches it through ``reads``: they belong to its provenance, but a change there alone does not make it stale.
    ``role`` is given to the publishing function of a stage that serves both clips and queries. ``screens_clips`` says that a clip without a
    row here does not enter the eligible pool, ``reports`` that the report shows it and is made again when it changes.
    """

    name: str
    description: str
    reads: Reads
    looks_up: Reads = ()
    role: Role | None = None
    screens_clips: bool = False
    reports: bool = False


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage of the pipeline: what it publishes, from what, by which function, and which settings decide the result.

    ``settings`` are the dotted keys (or whole sections) of the config that decide what a row holds. ``publish_settings`` decide what is
    published, or whether anything may be, and leave the rows as they are; settings that stand in a row's own key (``keys.py``, or beside the
    function that computes the row) belong there, too. ``when``
    holds settings that count only while another has a value: ``{(key, value): settings}``. ``version`` is the version of the code: raise it
    when a change to the code changes what the stage computes. These four make the stage's fingerprint; what comes from upstream enters row
    by row, by content.

    ``publish`` is the dotted name ``module:function``, imported when the asset runs; it is called with the workspace and, where they apply,
    ``role`` and the lane. A stage without ``publish`` has rows of its own and is computed as a part of another one. ``rows`` is the dotted name of
    the function, called likewise, that computes the same rows and publishes nothing: for stages whose row depends on one clip (or query) and on what
    the whole project shares, so that shards can compute them (``motive run --shard``).

    ``exists`` says whether a project has the stage. ``by_rows``: it computes one row for each clip or query. ``reads_frames``: it decodes clips,
    so the version of the code that does (``FRAMES_VERSION``) counts, too. ``on_device``: its time is
    time on the model's device. ``heavy``: automation starts it only with ``schedule.auto_heavy``. ``rejects``: its publication lists files
    or clips that it could not use; ``reject_limit`` is the setting that limits the share of rejected clips.
    """

    name: str
    settings: tuple[str, ...] = ()
    when: Mapping[Switch, tuple[str, ...]] = field(default_factory=dict)
    publish_settings: tuple[str, ...] = ()
    version: int = 1
    publish: str | None = None
    rows: str | None = None
    group: AssetGroup = "curation"
    kinds: Kinds = frozenset({"parquet"})
    outputs: tuple[Output, ...] = ()
    lanes: Lanes | None = None
    exists: Callable[[Project], bool] = lambda project: True
    by_rows: bool = False
    reads_frames: bool = False
    on_device: bool = False
    heavy: bool = False
    rejects: bool = False
    reject_limit: str | None = None


@dataclass(frozen=True, kw_only=True)
class Source:
    """Files or weights that live outside the pipeline.

    ``observe`` is the dotted name of a function ``workspace -> (version, facts)``; the version is a hash of the content. ``taken_in_by`` is
    the asset whose record says which version was read last. ``change`` says in words what a new version means.
    """

    name: str
    description: str
    kinds: frozenset[str]
    settings: tuple[str, ...]
    observe: str
    taken_in_by: str
    change: str
