"""What differs between two curations of the history, and why: clips that each arm took up or dropped, each with a reason."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pandas as pd

from motive_pipeline.errors import MotiveError
from motive_pipeline.storage.history import Entry, History, setting_text

HASHES = {"model": "the model", "queries": "the set of queries"}
"""Entries of a publication's settings that are hashes, and what each stands for."""

MAX_NAMED = 3


@dataclass(frozen=True, kw_only=True)
class Change:
    """One setting that differs. None: it was not, or is no longer, a setting of the arm."""

    setting: str
    before: Any
    after: Any

    def __str__(self) -> str:
        if self.setting in HASHES:
            return f"{HASHES[self.setting]} changed"
        return f"{self.setting} {setting_text(self.before)} -> {setting_text(self.after)}"


@dataclass(frozen=True, kw_only=True)
class ClipChange:
    """A clip that entered or left. Ranks are those of the ranking that the arm chooses from, or of the arm's own order; None: it had none."""

    clip_id: str
    path: str | None
    change: str
    rank_before: int | None
    rank_after: int | None
    why: str


@dataclass(frozen=True, kw_only=True)
class ArmChange:
    """What one arm chose in both curations; None where it had no subset."""

    arm: str
    num_before: int | None
    num_after: int | None
    settings: Sequence[Change]
    clips: Sequence[ClipChange]

    def sentence(self) -> str:
        """For a person."""
        if self.num_before is None or self.num_after is None:
            return f"{self.arm}: " + (
                f"is new, {self.num_after} clips" if self.num_before is None else f"has gone, it had {self.num_before} clips"
            )
        entered = sum(clip.change == "entered" for clip in self.clips)
        if not self.clips:
            return f"{self.arm}: the same {self.num_after} clips"
        return f"{self.arm}: {self.num_before} -> {self.num_after} clips; {entered} entered, {len(self.clips) - entered} left"


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two curations side by side. ``added`` and ``gone`` map the ids of catalogs' clips and queries to their paths."""

    before: CurationName
    after: CurationName
    clips_added: Mapping[str, str]
    clips_gone: Mapping[str, str]
    queries_added: Mapping[str, str]
    queries_gone: Mapping[str, str]
    arms: Sequence[ArmChange] = field(default=())

    @property
    def settings(self) -> list[Change]:
        """What differs for any arm, in order of the settings' names."""
        return sorted({(each.setting, str(each)): each for arm in self.arms for each in arm.settings}.values(), key=str)


@dataclass(frozen=True, kw_only=True)
class CurationName:
    """A curation's number, the time of its last publication and the run that made it."""

    curation: int
    published_at: datetime
    run_id: str

    def __str__(self) -> str:
        run = f"run {self.run_id[:8]}" if self.run_id else "before the history began"
        return f"curation {self.curation} ({self.published_at:%Y-%m-%d %H:%M} UTC, {run})"


def find_curation(history: History, name: str) -> int:
    """The number of the curation that ``name`` means: a number, ``latest``, ``previous``, a negative number that counts back from the latest (-1 is
    ``previous``), a date or time (UTC; the last curation until then, a date until its end), or the first digits of a run's id.

    Raises:
        MotiveError: there is none; the message says what there is.
    """
    known = history.curations()
    if not known:
        raise MotiveError(f"no curation below {history.folder} yet. `motive run` or `motive rank` makes the first.")
    found = _meant(history, known, name)
    if found not in known:
        there = f"{known[0]} to {known[-1]}" if len(known) > 1 else str(known[0])
        raise MotiveError(
            f"there is no curation {name!r} in {history.folder}. There are {len(known)} ({there}). Name one by its number, `latest`, `previous`, -1 (one before "
            "the latest), a date such as 2026-01-31 or the first digits of a run's id; older ones are removed (storage.keep_curations)."
        )
    return found


def compare(history: History, before: int, after: int) -> Comparison:
    """What differs between the curations ``before`` and ``after``, with a reason for each clip."""
    old, new = history.state(before), history.state(after)
    clips, queries = (_paths(old, new, asset) for asset in ("clip_catalog", "query_catalog"))
    arms = sorted({key.split("/")[1] for key in (*old, *new) if key.startswith("curated_subset/")})
    return Comparison(
        before=_name(history, before),
        after=_name(history, after),
        clips_added=_only(clips[1], clips[0]),
        clips_gone=_only(clips[0], clips[1]),
        queries_added=_only(queries[1], queries[0]),
        queries_gone=_only(queries[0], queries[1]),
        arms=[_arm_change(arm, old, new, *clips) for arm in arms],
    )


def _meant(history: History, known: Sequence[int], name: str) -> int | None:
    back = {"latest": 0, "previous": 1}.get(name)
    if back is None and re.fullmatch(r"-\d+", name):
        back = -int(name)
    if back is not None:
        return known[-1 - back] if back < len(known) else None
    if name.isdecimal() and int(name) in known:
        return int(name)
    made = [entry for entry in history.entries() if entry.makes_curation and entry.curation in known]
    if (until := _end_of(name)) is not None:
        return max((entry.curation for entry in made if entry.published_at < until), default=None)
    runs = {entry.curation for entry in made if entry.run_id.startswith(name)} if len(name) >= 4 else set()
    return max(runs, default=None)


def _end_of(name: str) -> datetime | None:
    """The first moment after the date or time ``name``."""
    try:
        moment = datetime.fromisoformat(name)
    except ValueError:
        return None
    step = timedelta(days=1) if re.fullmatch(r"\d{4}-?\d{2}-?\d{2}", name) else timedelta(microseconds=1)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)) + step


def _name(history: History, curation: int) -> CurationName:
    made = [entry for entry in history.entries() if entry.curation == curation]
    return CurationName(curation=curation, published_at=max(entry.published_at for entry in made), run_id=made[-1].run_id)


def _paths(old: Mapping[str, Entry], new: Mapping[str, Entry], asset: str) -> list[dict[str, str]]:
    """id -> path in both curations. A catalog that only the later curation knows is taken for that of both: nothing is known to have come or gone."""
    tables = [state[asset].rows() if asset in state else None for state in (old, new)]
    return [{} if (table := found if found is not None else tables[1]) is None else _column(table, "path") for found in tables]


def _only(some: Mapping[str, str], others: Mapping[str, str]) -> dict[str, str]:
    return {key: some[key] for key in sorted(some.keys() - others.keys())}


def _column(rows: pd.DataFrame, name: str) -> dict[str, Any]:
    return dict(zip(rows["clip_id"], rows[name], strict=True))


def _arm_change(
    arm: str, old: Mapping[str, Entry], new: Mapping[str, Entry], paths_before: Mapping[str, str], paths_after: Mapping[str, str]
) -> ArmChange:
    entries = [state.get(f"curated_subset/{arm}") for state in (old, new)]
    before, after = (None if entry is None else _column(entry.rows(), "rank") for entry in entries)
    num_before, num_after = (None if found is None else len(found) for found in (before, after))
    if entries[0] is None or entries[1] is None or before is None or after is None:
        return ArmChange(arm=arm, num_before=num_before, num_after=num_after, settings=(), clips=())
    changes = [] if entries[0].file == entries[1].file else _changes(entries[0].settings, entries[1].settings)
    ranks_before, ranks_after = (_ranks(entry, state, own) for entry, state, own in zip(entries, (old, new), (before, after), strict=True))
    moved = [(clip, "entered") for clip in after if clip not in before] + [(clip, "left") for clip in before if clip not in after]
    is_ranked = entries[1].variant is not None
    clips = [
        ClipChange(
            clip_id=clip,
            path=paths_after.get(clip) or paths_before.get(clip),
            change=change,
            rank_before=ranks_before.get(clip),
            rank_after=ranks_after.get(clip),
            why=_why(
                clip,
                ranks_before.get(clip),
                ranks_after.get(clip),
                paths_before,
                paths_after,
                changes,
                is_ranked=is_ranked,
                has_new_size=num_before != num_after,
            ),
        )
        for clip, change in moved
    ]
    return ArmChange(arm=arm, num_before=num_before, num_after=num_after, settings=changes, clips=clips)


def _changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Change]:
    keys = sorted({key for key in (*before, *after) if before.get(key) != after.get(key)})
    return [Change(setting=key, before=before.get(key), after=after.get(key)) for key in keys]


def _ranks(entry: Entry | None, state: Mapping[str, Entry], own: dict[str, int]) -> dict[str, int]:
    """Ranks by the ranking that the subset was chosen from; the arm's own where there is none."""
    ranking = None if entry is None or entry.variant is None else state.get(f"voted_ranking/{entry.variant}")
    return own if ranking is None else _column(ranking.rows(), "rank")


def _why(
    clip: str, rank_before: int | None, rank_after: int | None, paths_before: Mapping[str, str], paths_after: Mapping[str, str],
    changes: Sequence[Change], *, is_ranked: bool, has_new_size: bool
) -> str:  # fmt: skip
    if clip not in paths_before and clip in paths_after:
        return "clip added to the catalog"
    if clip in paths_before and clip not in paths_after:
        return "clip gone from the catalog"
    if changes:
        more = f" and {len(changes) - MAX_NAMED} more" if len(changes) > MAX_NAMED else ""
        return "; ".join(map(str, changes[:MAX_NAMED])) + more
    if is_ranked and rank_before is None:
        return "not ranked before: it was rejected or had no gradient"
    if is_ranked and rank_after is None:
        return "no longer ranked: the table `rejects` says why"
    if not is_ranked:
        return "the pool or what the arm orders by changed"
    if rank_before == rank_after and not has_new_size:
        return f"the rank is still {rank_after}; a value that the arm selects by changed, or another clip's did"
    if rank_before == rank_after:
        return f"the subset's size changed; the rank is still {rank_after}"
    return f"influence moved: rank {rank_before} -> {rank_after}"
