"""The videos to generate: the same prompts and seeds for every arm and every training."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from motive_pipeline.errors import ConfigError, GateFailed
from motive_pipeline.storage.workspace import Workspace


@dataclass(frozen=True, kw_only=True)
class Video:
    """One video to generate: number ``n`` of a prompt, and the seed of its sampling noise."""

    prompt_index: int
    n: int
    prompt: str
    sampling_seed: int

    @property
    def name(self) -> str:
        """The file's name: ``<prompt index>-<n>.mp4``."""
        return f"{self.prompt_index}-{self.n}.mp4"


def planned_videos(ws: Workspace) -> list[Video]:
    """``generate.videos_per_prompt`` videos for each prompt, in order of the prompts."""
    settings = ws.config.generate
    return [
        Video(prompt_index=index, n=n, prompt=prompt, sampling_seed=sampling_seed(settings.seed, prompt, n))
        for index, prompt in enumerate(load_prompts(ws))
        for n in range(settings.videos_per_prompt)
    ]


def sampling_seed(seed: int, prompt: str, n: int) -> int:
    """63 bits that depend only on ``generate.seed``, the prompt and the video's number: adding or removing a prompt changes no other video."""
    return int.from_bytes(hashlib.sha256(f"video {seed} {n} {prompt}".encode()).digest()[:8], "big") >> 1


def load_prompts(ws: Workspace) -> list[str]:
    """The lines of ``generate.prompts``; by default the captions of queries and held-out queries in the catalog's order. Each appears once.

    Raises:
        ConfigError: the file cannot be read, is not UTF-8 text, or holds no prompt.
        GateFailed: a query has no caption: its video, and the scores with it, would be those of the empty prompt.
    """
    file = ws.config.generate.prompts
    if file is None:
        queries = ws.published("query_catalog").table("queries").astype({"caption": str})
        _require_captions(queries)
        return list(dict.fromkeys(queries["caption"]))
    prompts = list(dict.fromkeys(line.strip() for line in _read_text(file).split("\n") if line.strip()))
    if not prompts:
        raise ConfigError(f"generate.prompts = {str(file)!r}: the file contains no prompt; write one prompt per line")
    return prompts


def _require_captions(queries: pd.DataFrame) -> None:
    without = queries[queries["caption"].str.strip() == ""]
    if len(without):
        paths = without["path"].tolist()
        raise GateFailed(
            f"{len(without)} of {len(queries)} queries have no caption, so there is no prompt to generate their videos from: {', '.join(paths[:5])}"
            f"{', ...' if len(paths) > 5 else ''}. Write a caption beside each (a.mp4 + a.txt) or into the table, or name a file with one prompt a "
            "line in generate.prompts."
        )


def _read_text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ConfigError(
            f"generate.prompts = {str(file)!r}: cannot be read ({error.strerror}); name a text file with one prompt per line"
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"generate.prompts = {str(file)!r}: not UTF-8 text ({error.reason}); save the file as UTF-8") from error
