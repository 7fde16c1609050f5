"""The trackers of ``motion.tracker``. To add one, write its entry here and the function that builds it.

A building function is called as ``build(motion, device=..., threads=...)``, with the config's section ``motion``, and gives a
:class:`~motive_pipeline.motion.trackers.Tracker`.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class TrackerEntry:
    """One tracker: what builds it, and what the settings, the fingerprints and the masks need to know of it.

    ``build`` is the dotted name of the building function. ``settings`` are the dotted keys that only this tracker reads. ``kind`` is the
    library it runs on, as Dagster's UI shows it. ``by_threads``: it runs on the CPU, on ``engine.threads`` clips at once; any other tracker
    gets one clip after the other. ``gives_visibility``: it tells how visible a point is and how sure it is, which ``motion.weigh_by`` needs.
    """

    name: str
    build: str
    settings: tuple[str, ...] = ()
    kind: str = "torch"
    by_threads: bool = False
    gives_visibility: bool = False


def _listed(*trackers: TrackerEntry) -> dict[str, TrackerEntry]:
    return {tracker.name: tracker for tracker in trackers}


TRACKERS: dict[str, TrackerEntry] = _listed(
    TrackerEntry(name="dis", build="motive_pipeline.motion.trackers:build_dis", kind="opencv", by_threads=True),
    TrackerEntry(
        name="alltracker",
        build="motive_pipeline.motion.alltracker:load_alltracker",
        settings=("motion.weigh_by", "motion.alltracker", "engine.threads"),
        gives_visibility=True,
    ),
)
"""Every tracker, by the value of ``motion.tracker``."""
