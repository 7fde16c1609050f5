"""``motive verify``: reads all current data below a root and compares it with the hashes recorded when it was written."""

from __future__ import annotations

import time
from dataclasses import dataclass

from motive_pipeline.storage.integrity import forget_hashes
from motive_pipeline.storage.publication import RECORD
from motive_pipeline.storage.sealed import read_sealed
from motive_pipeline.storage.workspace import Workspace


@dataclass(frozen=True, kw_only=True)
class Checked:
    """What was read, and every fault: the file, what is wrong with it, and the consequence."""

    problems: list[str]
    num_publications: int
    num_rows: int
    num_bytes: int
    seconds: float

    def summary(self) -> str:
        """One line for a person."""
        read = f"{self.num_publications} publications and {self.num_rows} rows ({self.num_bytes / 1e9:.2f} GB, {self.seconds:.1f} s)"
        if not self.problems:
            return f"nothing is wrong: {read}"
        return f"{len(self.problems)} faults in {read}. What is damaged counts as missing now: `motive run` makes it again."


def check_store(ws: Workspace) -> Checked:
    """Check every row store, every current publication and the score tables; what is damaged counts as missing from now on.

    The caller holds the root's lock. Every file is read once.
    """
    started = time.monotonic()
    forget_hashes()
    problems: list[str] = []
    num_bytes = num_rows = 0
    for folder in sorted((ws.root / "rows").glob("*/*/segments")):
        store = ws.store_at(folder.parent.relative_to(ws.root / "rows").as_posix())
        problems += store.damages()
        num_rows += len(store)
        num_bytes += sum(file.num_bytes for commit in store.commits() for file in commit.segments.values())
    problems += ws.damages()
    whole = [publication.folder for asset in ws.assets() if (publication := ws.published_or_none(asset)) is not None]
    num_bytes += sum(num for folder in whole for num, _ in read_sealed(folder / RECORD)["files"].values())
    problems += ws.scores.damages()
    problems += ws.history.damages()
    seconds = time.monotonic() - started
    return Checked(problems=problems, num_publications=len(whole), num_rows=num_rows, num_bytes=num_bytes, seconds=seconds)
