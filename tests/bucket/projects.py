"""A root in a bucket, as one or several machines see it: each has a state folder of its own."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from motive_pipeline.bucket.address import Address
from motive_pipeline.bucket.client import Bucket
from motive_pipeline.config import Config, parse_config
from motive_pipeline.storage import root_copy
from motive_pipeline.storage.layout import mark_layout
from motive_pipeline.storage.rows import Row
from motive_pipeline.storage.workspace import Workspace

SETTINGS = """
storage: {{root: "{url}", state: {state}}}
clips: {{source: demo, num_frames: 17, width: 64, height: 64, demo: {{num_clips: 9}}}}
queries: {{source: demo, demo: {{num_queries: 1, num_held_out: 0}}}}
model: {{path: tiny, dtype: float32, max_prompt_tokens: 32}}
"""


def config_of(folder: Path, url: str, state: str) -> Config:
    """The settings of a machine whose state is the folder ``state``."""
    return parse_config(SETTINGS.format(url=url, state=state), folder / f"{state}.yaml")


def machine(folder: Path, address: Address, name: str) -> Workspace:
    """The root at ``address`` as the machine ``name`` sees it now, with nothing remembered from earlier in this process."""
    config = config_of(folder, address.url, name)
    root_copy._copies.pop(config.storage.root, None)
    return Workspace(config)


def publish(ws: Workspace, text: str, asset: str = "rejected_clips") -> str:
    """Publish ``asset`` with one file in it; the data version."""
    mark_layout(ws.root)

    def write(folder: Path) -> None:
        (folder / "text.txt").write_text(text)

    return ws.publish(asset, content=text, write=write, started=time.time()).data_version


def rows(*keys: str) -> list[Row]:
    """A row of 64 floats for each key, which follow from the key."""
    return [Row(key=key, arrays={"value": np.full(64, float(len(key)), np.float32) + ord(key[-1]), "norm": np.float32(1)}) for key in keys]


def objects(address: Address) -> dict[str, int]:
    """Key and size of every object of the root."""
    return {each.key: each.size for page in Bucket(address).pages() for each in page}
