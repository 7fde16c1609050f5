"""``motive merge``: takes the rows of finished shards into the main root. `motive run` then finds them, and only publishes.

All shards are looked at before anything is taken over; each is kept from running while it is looked at, and while its rows are taken. Then each commit of a shard's row stores becomes one commit of the main root's: the same
call again, also after a kill, takes over what is left.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from motive_pipeline.config import Config
from motive_pipeline.errors import MotiveError
from motive_pipeline.progress import Progress
from motive_pipeline.shards.record import ShardRecord, StoreRows, load_record, sharded_stores, sources_of_rows
from motive_pipeline.shards.share import RECORD, Share, only_count
from motive_pipeline.storage.adopting import Adopted, adopt_rows
from motive_pipeline.storage.layout import mark_layout
from motive_pipeline.storage.lock import Locked
from motive_pipeline.storage.published_settings import changes_since
from motive_pipeline.storage.rows import MissingRow, RowStore
from motive_pipeline.storage.sealed import Damaged
from motive_pipeline.storage.shard_folders import give_up_copies, has_begun, shard_lock, shown
from motive_pipeline.storage.workspace import Workspace

log = logging.getLogger(__name__)

LOCK_WAIT_S = 1.0
_NAMED_SHARDS = 20
_AGAIN = "only what is left or has changed is computed"


@dataclass(frozen=True, kw_only=True)
class Merged:
    """The shards that were merged, and what was taken over from all of them, by row store."""

    records: list[ShardRecord]
    taken: dict[str, Adopted]

    @property
    def waiting(self) -> dict[str, str]:
        """The assets that shards had to leave out, and why."""
        return {key: why for record in self.records for key, why in record.waiting.items()}


def merge_shards(config: Config, folder: Path, count: int | None = None) -> Merged:
    """Take the rows of all ``count`` shards in ``folder`` into the main root. By default ``folder`` holds one set of shards.

    Raises:
        MotiveError: a shard is missing, is at work, is damaged or was made from something else; the message names every such shard. Nothing was taken over
            then, except where only reading a shard's rows showed that they are damaged.
        Locked: a run is using the main root.
    """
    ws = Workspace(config)
    count = only_count(folder) if count is None else count
    shares = [Share(count=count, number=number) for number in range(1, count + 1)]
    with ws.lock.holding(wait_s=LOCK_WAIT_S, who="motive merge"):
        mark_layout(ws.root)
        records, wrong = _checked(ws, folder, shares)
        if wrong:
            raise MotiveError(_named(wrong, folder, count))
        for warning in _unequal_machines(records):
            log.warning("%s", warning)
        taken: dict[str, Adopted] = {}
        progress = Progress("merge", len(shares), unit="shards")
        for share in shares:
            try:
                with _at_rest(share, folder) as place:
                    if load_record(place) != records[share]:
                        raise _AtWork("was run again meanwhile")
                    for name in records[share].stores:
                        taken[name] = taken.get(name, Adopted()) + adopt_rows(ws.store_at(name), RowStore(place / "rows" / name))
                    give_up_copies(place)
            except (MissingRow, _AtWork, FileNotFoundError, Damaged) as error:
                raise MotiveError(_named({share: str(error)}, folder, count)) from error
            progress.step()
    return Merged(records=list(records.values()), taken=taken)


class _AtWork(MotiveError):
    """A shard that is at work cannot be merged."""


@contextmanager
def _at_rest(share: Share, folder: Path) -> Iterator[Path]:
    """The folder of the shard, which nobody can run over the block.

    Raises:
        _AtWork: somebody runs it now.
        FileNotFoundError: it was never run.
    """
    place = share.folder(folder)
    if not has_begun(place):
        raise FileNotFoundError(place)
    lock = shard_lock(place, f"shard {share}")
    try:
        lock.acquire(who="motive merge")
    except Locked as error:
        raise _AtWork(f"is at work ({error})") from error
    try:
        yield place
    finally:
        lock.release()


def _checked(ws: Workspace, folder: Path, shares: list[Share]) -> tuple[dict[Share, ShardRecord], dict[Share, str]]:
    """The record of each shard that can be merged, and what is wrong with each that cannot."""
    sources, stores = sources_of_rows(ws), sharded_stores(ws)
    records: dict[Share, ShardRecord] = {}
    wrong: dict[Share, str] = {}
    progress = Progress("look at the shards", len(shares), unit="shards")
    for share in shares:
        try:
            with _at_rest(share, folder) as place:
                record = load_record(place)
                differences = [*_other_sources(record, sources), *_other_settings(ws, record, stores), *_lost_rows(record, place)]
        except FileNotFoundError:
            wrong[share] = f"has not finished, or has never run: there is no {shown(share.folder(folder) / RECORD)}"
        except (_AtWork, Damaged) as error:
            wrong[share] = str(error)
        else:
            records[share] = record
            if differences:
                wrong[share] = "; ".join(differences)
        progress.step()
    return records, wrong


def _other_sources(record: ShardRecord, now: dict[str, str | None]) -> Iterator[str]:
    """Which catalogs or models of the record are not those of now."""
    for name in {**now, **record.sources}:
        before, after = record.sources.get(name), now.get(name)
        if before != after:
            yield f"was made with another version of {name} ({_short(before)}; now {_short(after)})"


def _other_settings(ws: Workspace, record: ShardRecord, now: dict[str, StoreRows]) -> Iterator[str]:
    """How the settings and the code behind the record's rows differ from those of now."""
    changed = {name: stored for name, stored in record.stores.items() if name not in now}
    for name, stored in changed.items():
        saved: dict[str, Any] = {**vars(stored), "gates": ws.config.publish_settings(stored.stage, stored.lane)}
        yield f"was made with other settings: {'; '.join(changes_since(ws.config, saved)) or name}"
    explained = {stored.stage for stored in changed.values()}
    if lacking := sorted({stored.stage for name, stored in now.items() if name not in record.stores} - explained):
        yield f"lacks the rows of {', '.join(lacking)} under the present settings"


def _lost_rows(record: ShardRecord, place: Path) -> Iterator[str]:
    """Which row stores have fewer rows than the record says."""
    for name, stored in record.stores.items():
        store = RowStore(place / "rows" / name)
        store.refresh()
        if (len(store), store.num_rejects) != (stored.rows, stored.rejects):
            yield f"has lost rows of {stored.stage}: {store.folder} has {len(store)} of {stored.rows}"


def _named(wrong: dict[Share, str], folder: Path, count: int) -> str:
    lines = [f"  shard {share} {what}" for share, what in list(wrong.items())[:_NAMED_SHARDS]]
    if len(wrong) > _NAMED_SHARDS:
        lines.append(f"  and the shards {', '.join(str(share.number) for share in list(wrong)[_NAMED_SHARDS:])}")
    first = next(iter(wrong))
    return "\n".join(
        [
            f"{len(wrong)} of {count} shards in {shown(folder)} cannot be merged:",
            *lines,
            f"Run each of them again, as in `motive run --shard {first}`: {_AGAIN}. Then run `motive merge` again.",
        ]
    )


def _unequal_machines(records: dict[Share, ShardRecord]) -> Iterator[str]:
    """A warning for each thing that the shards' machines do not have in common and that may change the last bits of a row."""
    parts = {share: record.machine["libraries"] | {"device": record.machine["device"]} for share, record in records.items()}
    for name in dict.fromkeys(name for part in parts.values() for name in part):
        shares: dict[str, list[int]] = {}
        for share, part in parts.items():
            shares.setdefault(part.get(name, "none"), []).append(share.number)
        if len(shares) > 1:
            told = "; ".join(f"{value} in the shards {', '.join(map(str, numbers))}" for value, numbers in shares.items())
            yield f"{name} differs: {told}. The last bits of their rows may differ from those of one machine."


def _short(version: str | None) -> str:
    return "none" if version is None else version[:12]
