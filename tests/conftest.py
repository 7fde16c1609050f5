"""Fixtures that several rooms share."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # two test processes on two cores must not wait for each other in spin locks

from motive_pipeline.config import Config, parse_config
from motive_pipeline.storage.workspace import Workspace

SMALL_DEMO = """
clips: {source: demo, num_frames: 17, width: 64, height: 64, demo: {num_clips: 18}}
queries: {source: demo, demo: {num_queries: 2, num_held_out: 2}}
model: {path: tiny, dtype: float32, max_prompt_tokens: 32}
"""


@pytest.fixture
def make_config(tmp_path: Path):
    """Parse YAML text as ``motive.yaml`` of a fresh folder."""

    def make(text: str = SMALL_DEMO) -> Config:
        return parse_config(text, tmp_path / "motive.yaml")

    return make


@pytest.fixture
def workspace(make_config) -> Workspace:
    """A workspace over generated clips and the tiny model, with nothing published yet."""
    return Workspace(make_config())
