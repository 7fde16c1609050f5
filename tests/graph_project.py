"""A small whole project on disk, run through the real Dagster graph in a process of its own, as a user runs it."""

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import yaml

from assets.definitions import build_definitions
from assets.instance import instance_folder
from assets.names import asset_name
from motive_pipeline.config import Config, load_config
from motive_pipeline.storage.workspace import Workspace
from tests.forked_command import run_command

SETTINGS = {
    "engine": {"threads": 1},
    "clips": {"source": "demo", "num_frames": 17, "width": 64, "height": 64, "demo": {"num_clips": 18, "split": "plain"}},
    "queries": {"source": "demo", "demo": {"num_queries": 2, "num_held_out": 2}},
    "model": {"path": "tiny", "dtype": "float32", "max_prompt_tokens": 32},
    "gradient": {"store_dim": 512},
    "influence": {"proj_dim": 256},
    "subset": {"share": 0.2},
    "finetune": {"seeds": 1, "steps": 2, "batch_size": 2, "learning_rate": 1.0e-4},
    "generate": {"num_steps": 2, "guidance": 1.0, "batch_size": 4},
    "evaluate": {"bootstrap_samples": 100, "held_out_draws": 2},
}


@dataclass(frozen=True)
class CommandResult:
    """What ``motive`` printed and returned."""

    code: int
    out: str
    err: str

    @property
    def assets(self) -> dict[str, dict]:
        """The JSON line of ``motive run --json``."""
        return json.loads(self.out.splitlines()[-1])["assets"]


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in ("DAGSTER_HOME", "MOTIVE_CONFIG")}


class Project:
    """A folder with a ``motive.yaml``; :meth:`set` changes settings, :meth:`motive` runs the command."""

    def __init__(self, folder: Path, settings: dict | None = None) -> None:
        self.folder = folder
        self.file = folder / "motive.yaml"
        self.settings = json.loads(json.dumps(settings or SETTINGS))
        self.save()

    def save(self) -> None:
        """Write ``motive.yaml``."""
        self.file.write_text(yaml.safe_dump(self.settings, sort_keys=False), encoding="utf-8")

    def set(self, dotted: str, value) -> None:
        """Change one setting (``vote.percentile``) and write the file."""
        *sections, key = dotted.split(".")
        target = self.settings
        for section in sections:
            target = target.setdefault(section, {})
        target[key] = value
        self.save()

    @property
    def config(self) -> Config:
        """The settings as they are now."""
        return load_config(self.file)

    @property
    def workspace(self) -> Workspace:
        """A fresh look at what is on disk."""
        return Workspace(self.config)

    def materializations(self) -> Counter[str]:
        """How often each asset has been materialized, as its Dagster instance remembers."""
        graph = build_definitions(self.config).resolve_asset_graph()
        with dg.DagsterInstance.from_config(str(instance_folder(self.config))) as instance:
            keys = graph.materializable_asset_keys
            return Counter({asset_name(key): len(instance.fetch_materializations(key, limit=1000).records) for key in keys})

    def motive(self, *arguments: str, timeout_s: float = 1200) -> CommandResult:
        """``motive COMMAND --config <this project's> ...`` in a process of its own."""
        return CommandResult(*run_command(self._arguments(*arguments), cwd=self.folder, environment=_environment(), timeout_s=timeout_s))

    @contextmanager
    def started(self, *arguments: str) -> Iterator[subprocess.Popen[str]]:
        """``motive COMMAND --config <this project's> ...`` as a process, whose lines ``stdout`` gives (those of both streams); killed at the end if it still runs."""
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        with subprocess.Popen(self.command(*arguments), env=_environment(), cwd=self.folder, **options) as process:
            try:
                yield process
            finally:
                process.kill()

    def command(self, *arguments: str) -> list[str]:
        """The command line of ``motive COMMAND --config <this project's> ...``."""
        return [sys.executable, "-u", "-m", "motive_pipeline.cli", *self._arguments(*arguments)]

    def _arguments(self, command: str, *rest: str) -> list[str]:
        return [command, "--config", str(self.file), *rest]

    def run(self, *arguments: str) -> CommandResult:
        """``motive run --json``, which must succeed."""
        outcome = self.motive("run", "--json", *arguments)
        assert outcome.code == 0, outcome.err[-4000:]
        return outcome

    def sql(self, query: str) -> list[dict]:
        """``motive sql --format json``."""
        outcome = self.motive("sql", query, "--format", "json")
        assert outcome.code == 0, outcome.err
        return json.loads(outcome.out)
