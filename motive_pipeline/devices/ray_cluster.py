"""The connection of a run to a Ray cluster: found within seconds or refused by name."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import motive_pipeline
from motive_pipeline.config import Engine
from motive_pipeline.config.section import AUTO
from motive_pipeline.errors import MotiveError

log = logging.getLogger(__name__)

_PROBE_S = 3.0
_ENVIRONMENT = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_AUTO_CONNECT": "0", "RAY_AUTH_MODE": "token"}
_OF_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Ray sets this in the process of a job."""

_ON_LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""Makes every listener of a cluster of one machine listen on 127.0.0.1."""


_address: str | None = None
"""The setting by which this process is connected now."""


def connected(engine: Engine, name: str) -> Any:
    """The module ``ray``, connected to the cluster of ``engine.address`` for as long as this process lives. ``name`` is the namespace of what it starts.

    Raises:
        MotiveError: Ray is not installed, nothing answers at the address, or the cluster refuses this process (its token, versions).
    """
    global _address
    if _address == engine.address:
        import ray

        if ray.is_initialized():
            return ray
    ray = _connect(engine.address, name)
    _address = engine.address
    return ray


def _connect(address: str, name: str) -> Any:
    prepare(_ON_LOOPBACK if address == "local" else {})
    with _own_signals():
        try:
            import ray
            import ray.exceptions
        except ImportError as error:
            raise MotiveError(f"engine.kind: ray needs Ray ({error}). Run: pip install 'motive-pipeline[ray]'") from error
        ray.shutdown()  # another cluster, if there was one
        options: dict[str, Any] = {"namespace": name, "log_to_driver": False, "logging_level": logging.ERROR}
        if address == "local":
            options |= {"address": "local", "include_dashboard": False}
        else:
            place = _place_of(address)
            _require_answer(place)
            _require_same_auth(place)
            options |= {"address": place}
            if _OF_JOB not in os.environ:  # a job's code is there already
                options["runtime_env"] = {"py_modules": [str(Path(motive_pipeline.__file__).parent)]}
            log.info("ray: connecting to the cluster at %s", place)
        try:
            ray.init(**options)
        except (ConnectionError, RuntimeError, ValueError, TimeoutError, ray.exceptions.RayError) as error:
            raise MotiveError(
                f"engine.address: {address}: the cluster refuses this process ({_first_line(error)}). Its Ray and Python must be of the same versions as here "
                f"(Ray {ray.__version__}), and the token (RAY_AUTH_TOKEN, or ~/.ray/auth_token) the same on every node."
            ) from error
    return ray


def prepare(further: Mapping[str, str] = MappingProxyType({})) -> None:
    """Set what Ray reads from the environment, where the user has not: no usage statistics, no connection by itself, the token checked."""
    for key, value in {**_ENVIRONMENT, **further}.items():
        os.environ.setdefault(key, value)


def _place_of(address: str) -> str:
    """host:port of the cluster."""
    if address != AUTO:
        return address
    from motive_pipeline.internals.ray import address_of_this_machine

    place = address_of_this_machine()
    if place is None:
        raise MotiveError(
            "engine.address: auto: this machine belongs to no Ray cluster (RAY_ADDRESS is not set, and none was started here). Start one with `ray start "
            "--head`, name one as host:port, or use engine.address: local for one of this run alone."
        )
    return place


def _require_answer(place: str) -> None:
    """Ray itself would wait for minutes."""
    host, _, port = place.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=_PROBE_S).close()
    except OSError as error:
        raise MotiveError(
            f"engine.address: nothing answers at {place} ({error}). Is the cluster up (`ray status`), and is this its address and port (6379 unless set)?"
        ) from error


def _require_same_auth(place: str) -> None:
    """Where only one side has a token, Ray would cancel every worker, and not say why."""
    from motive_pipeline.internals.ray import asks_for_a_token

    here, there = os.environ["RAY_AUTH_MODE"] == "token", asks_for_a_token(place, _PROBE_S)
    if here and there is False:
        raise MotiveError(
            f"engine.address: the cluster at {place} was started without a token, so whoever reaches it can run code on it. Start it with RAY_AUTH_MODE=token "
            "(docs/cluster.md). If nobody else reaches its network, set RAY_AUTH_MODE=disabled for this command instead."
        )
    if there and not here:
        raise MotiveError(
            f"engine.address: the cluster at {place} asks for a token, and RAY_AUTH_MODE is {os.environ['RAY_AUTH_MODE']} here. Unset it, or set it to token."
        )


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__


@contextmanager
def _own_signals() -> Iterator[None]:
    """Ray ends a process that gets SIGTERM in its own way; a run ends in ours (``stopping.py``)."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
