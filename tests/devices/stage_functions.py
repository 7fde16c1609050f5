"""Functions of a stage, as the processes of the devices make them."""

from __future__ import annotations

import logging
import os
import signal
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from motive_pipeline.engine import Computed
from motive_pipeline.errors import GateFailed, RejectRow
from motive_pipeline.storage.workspace import Workspace

log = logging.getLogger("motive_pipeline.tests.devices")


class Rows:
    """``item -> arrays``; some items are special."""

    def __init__(self, ws: Workspace, what: str = "") -> None:
        self._device = ws.config.model.device
        self._read_ahead: list[Any] = []
        if what == "no build":
            raise GateFailed("the model is not there")

    def prefetch(self, items: list[Any]) -> None:
        self._read_ahead += items

    def __call__(self, item: Any) -> Any:
        match item:
            case "reject":
                raise RejectRow("too_dark", "it is too dark", transient=True)
            case "gate":
                raise GateFailed("no query is left")
            case "bug":
                raise ZeroDivisionError("a bug")
            case "die":
                os.kill(os.getpid(), signal.SIGKILL)
            case "last words":
                log.info("about to die")
                time.sleep(1.0)  # it is told now and then
                os.kill(os.getpid(), signal.SIGKILL)
            case "log":
                log.info("working on %s", item)
            case ("note", path, _):
                time.sleep(0.3)
                with Path(path).open("a", encoding="ascii") as file:
                    file.write(f"{os.getpid()}\n")
            case ("sleep", seconds):
                time.sleep(seconds)
        return Computed(
            arrays={"x": np.array(len(str(item)), np.int64)},
            aside={"pid": os.getpid(), "device": self._device, "read_ahead": item in self._read_ahead},
        )


no_build = partial(Rows, what="no build")
