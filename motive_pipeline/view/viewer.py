"""What the endpoints share: the workspace, the snapshots that open pages look at, pictures, maps and the user's edits."""

from __future__ import annotations

import logging
import tempfile
import threading
import time
from collections import OrderedDict
from pathlib import Path
from typing import Any

from motive_pipeline.curation.edits import Edits, Tick, in_words, load_edits, save_tick
from motive_pipeline.errors import MotiveError
from motive_pipeline.graph import Role
from motive_pipeline.report.plumbing import plumbing_notes
from motive_pipeline.storage import atomic
from motive_pipeline.storage.workspace import Workspace
from motive_pipeline.view.asking import Asker
from motive_pipeline.view.cache import prune
from motive_pipeline.view.clip_view import BadRequest
from motive_pipeline.view.map_layout import LayoutMaker
from motive_pipeline.view.pictures import PictureMaker, Subject
from motive_pipeline.view.snapshot import Snapshot, open_snapshot, scores_version, state_folder

log = logging.getLogger(__name__)

KEPT_SNAPSHOTS = 3
FOLLOW_EVERY_S = 30.0
"""How often a root in a bucket is looked at for what other machines have published, while a page is open."""


class Gone(MotiveError):
    """The version that the page looks at is no longer held: the page must be loaded again."""


class Viewer:
    """One root, seen by any number of pages."""

    def __init__(self, ws: Workspace) -> None:
        """Raises MotiveError if nothing was published yet."""
        self.ws = ws
        folder = state_folder(ws)
        if not atomic.is_writable(folder):  # a root of somebody else's: the pictures last as long as the viewer
            self._temporary = tempfile.TemporaryDirectory(prefix="motive-view-")
            folder = Path(self._temporary.name)
        self.folder = folder
        self.pictures = PictureMaker(ws, folder)
        self.layouts = LayoutMaker(ws, folder)
        self.asker = Asker(ws, folder)
        self._snapshots: OrderedDict[str, Snapshot] = OrderedDict()
        self._opening, self._saving, self._explaining = threading.Lock(), threading.Lock(), threading.Lock()
        self._follower: threading.Thread | None = None
        self._followed_at = time.monotonic()  # as the workspace was opened
        self.current()
        threading.Thread(target=prune, args=(folder,), kwargs={"mark": self.pictures.mark}, name="prune", daemon=True).start()

    def close(self) -> None:
        """End what works beside."""
        self.layouts.close()

    def follow(self) -> None:
        """Let the working copy of a root in a bucket follow it, beside the answers: a bucket that is slow, or does not answer, keeps no page waiting."""
        with self._opening:
            is_busy = self._follower is not None and self._follower.is_alive()
            if self.ws.copy is None or is_busy or time.monotonic() - self._followed_at < FOLLOW_EVERY_S:
                return
            self._follower = threading.Thread(target=self._follow, name="follow", daemon=True)
            self._follower.start()

    def _follow(self) -> None:
        try:
            self.ws.follow()
        except MotiveError as error:
            log.warning("the viewer shows what it had: %s", error)
        self._followed_at = time.monotonic()

    def current(self) -> Snapshot:
        """The newest version. Raises MotiveError as :func:`~.snapshot.open_snapshot` does."""
        with self._opening:
            version = scores_version(self.ws)
            if version not in self._snapshots or not version:
                found = open_snapshot(self.ws)
                version = found.version
                self._snapshots[version] = found
                while len(self._snapshots) > KEPT_SNAPSHOTS:
                    self._snapshots.popitem(last=False)
            return self._snapshots[version]

    def snapshot(self, version: str) -> Snapshot:
        """The version that a page names. Raises Gone if it is no longer held."""
        found = self._snapshots.get(version)
        if found is None:
            raise Gone("newer scores were published: reload the page")
        return found

    def subject(self, clip_id: str) -> Subject:
        """The clip or query of this id, in any version that is held. Raises BadRequest if there is none."""
        statements: dict[Role, str] = {
            "clip": "SELECT path FROM clips WHERE clip_id = ?",
            "query": "SELECT path FROM queries WHERE query_id = ?",
        }
        for snapshot in reversed(list(self._snapshots.values())):
            for role, sql in statements.items():
                if rows := snapshot.rows(sql, [clip_id]):
                    return Subject(clip_id=clip_id, location=rows[0]["path"], role=role)
        raise BadRequest(f"there is no clip or query {clip_id!r}")

    @property
    def edits_file(self) -> Path:
        """The file of the user's ticks."""
        return self.ws.config.edits_file

    def edits(self) -> Edits:
        """The user's ticks as they are now. Raises MotiveError if the file cannot be used."""
        return load_edits(self.edits_file)

    def save_tick(self, clip_id: str, tick: Tick | None, note: str | None) -> Edits:
        """Save a tick, an empty one to take it back, or a note, or both; what is None stays. Raises MotiveError; BadRequest if there is no such clip."""
        if all(snapshot.position(clip_id) is None for snapshot in self._snapshots.values()):
            raise BadRequest(f"there is no clip {clip_id!r}")
        with self._saving:
            return save_tick(self.edits_file, clip_id, tick, note)

    def notes(self, snapshot: Snapshot) -> list[str]:
        """What whoever looks at the page should know."""
        found = plumbing_notes(self.ws.config)
        if not snapshot.ballots:
            found.append("No ranking is published yet, so there is no influence and no slider. `motive rank` makes one.")
        try:
            edits = self.edits()
        except MotiveError as error:
            return [*found, f"No ticks can be saved. {error}"]
        if unknown := edits.unknown(bytes(each).decode() for each in snapshot.clip_id_N):
            found.append(f"{edits.file.name} has ids that are no clips of this root; they are kept: {in_words(unknown)}.")
        if edits.problems:
            found.append(f"{edits.file.name} has rows that mean nothing here; they are kept: {in_words(edits.problems)}.")
        return found

    def explanation(self, clip_id: str) -> Path:
        """The page of `motive explain` about a clip or a query, made once for a version. Raises MotiveError."""
        from motive_pipeline.report.explain_page import write_explanation

        subject = self.subject(clip_id)
        file = self.folder / "explain" / scores_version(self.ws) / f"{subject.clip_id}.html"
        with self._explaining:
            if not file.exists():
                write_explanation(self.ws, subject.clip_id, file=file, compute_maps=False)
        return file

    def published_file(self, asset: str, name: str) -> Path:
        """A file of a publication. Raises MotiveError if there is none, or it lies elsewhere."""
        folder = self.ws.published(asset).path.resolve()
        file = (folder / name).resolve()
        if not file.is_relative_to(folder) or not file.is_file():
            raise BadRequest(f"{asset} has no file {name!r}")
        return file

    def published_pages(self) -> list[dict[str, str]]:
        """The published pages that the viewer can show: address and name."""
        pages = (("eval_report", "report/report.html", "Report"), ("preference_bundle", "preference/index.html", "Preference study"))
        return [
            {"address": address, "name": name}
            for asset, address, name in pages
            if asset in self.ws.graph.assets and self.ws.has_published(asset)
        ]

    def about(self) -> dict[str, Any]:
        """The root in words."""
        return {"root": str(self.ws.root), "config": str(self.ws.config.file), "edits": str(self.edits_file)}
