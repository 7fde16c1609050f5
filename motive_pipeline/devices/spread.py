"""What computes a stage's pieces of work: this process, one process for each of ``engine.devices``, or the workers of a Ray cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from motive_pipeline.devices.processes import ProcessSpread, process_of
from motive_pipeline.devices.server import Build, Releases
from motive_pipeline.devices.work import Spread, answers
from motive_pipeline.storage.workspace import Workspace

__all__ = ["Spread", "answers", "is_spread", "num_workers", "on_devices"]

ROWS_AT_ONCE = 2
"""Pieces of work a process has at a time: the next one's input is read while it computes."""


@contextmanager
def on_devices(
    ws: Workspace, build: Build, *, here: Callable[[Any], Any] | None = None, at_once: int = ROWS_AT_ONCE, leaves_files: bool = False
) -> Iterator[Any]:
    """What computes a stage's pieces of work: ``build(ws)`` itself (or ``here``, if the caller has made it already), or a :class:`Spread` where there are
    several devices (``engine.devices``) or a cluster (``engine.kind: ray``).

    The result of a piece of work is the same bits everywhere, on devices of one model. Work that ``leaves_files`` in the root stays in this process where
    the root is in a bucket and the others may be on machines with copies of their own.
    """
    if not is_spread(ws, leaves_files=leaves_files):
        function = build(ws) if here is None else here
        try:
            yield function
        finally:
            if isinstance(function, Releases):
                function.release()
        return
    if _has_cluster(ws):
        from motive_pipeline.devices.ray_spread import RaySpread, crew_of

        crew = crew_of(ws)
        spread, members = RaySpread(crew, ws.config, build, at_once=at_once), [crew]
    else:
        devices = ws.config.engine.all_devices
        members = [process_of(device, devices[:position].count(device)) for position, device in enumerate(devices)]
        spread = ProcessSpread(members, ws.config, build, at_once=at_once)
    try:
        yield spread
    except BaseException:  # also Ctrl-C: what they do now is wanted by nobody
        for member in members:
            member.kill()
        raise
    for member in members:
        member.rest()


def is_spread(ws: Workspace, *, leaves_files: bool = False) -> bool:
    """Whether work goes to other processes than this one; see :func:`on_devices`."""
    if leaves_files and ws.copy is not None and _has_cluster(ws):
        return False
    return _has_cluster(ws) or len(ws.config.engine.all_devices) > 1


def _has_cluster(ws: Workspace) -> bool:
    """Whether this process gives out work to a cluster. Where the cluster is elsewhere, a job there does."""
    engine = ws.config.engine
    return engine.kind == "ray" and not engine.is_elsewhere


def num_workers(ws: Workspace, *, leaves_files: bool = False) -> int:
    """How many pieces of work are computed at a time. It connects to the cluster, if there is one."""
    if not is_spread(ws, leaves_files=leaves_files):
        return 1
    if _has_cluster(ws):
        from motive_pipeline.devices.ray_spread import crew_of

        return crew_of(ws).most()
    return len(ws.config.engine.all_devices)
