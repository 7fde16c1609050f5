"""The first frames that an image-to-video model's videos start from: those of the queries whose captions are the prompts."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import UInt8

from motive_pipeline.catalog.catalog_clips import CatalogClip, catalog_clips, require_unchanged
from motive_pipeline.files.hash_memory import HashMemory
from motive_pipeline.models.folder import require_first_frames, task
from motive_pipeline.storage.workspace import Workspace
from motive_pipeline.video.decode import FrameRule, read_clip


class FirstFrames:
    """The first frame of each prompt. Of several queries with one caption, it is that of the query with the lowest id. Empty for text-to-video."""

    def __init__(self, ws: Workspace) -> None:
        """Raises MotiveError if prompts are read from a file, which has no first frames."""
        require_first_frames(ws)
        self._ws = ws
        self._rule = FrameRule.of(ws.config)
        self._read: dict[str, UInt8[np.ndarray, "H W 3"]] = {}
        self.are_used = task(ws.config.model) == "image_to_video"

    @cached_property
    def _queries(self) -> dict[str, CatalogClip]:
        queries: dict[str, CatalogClip] = {}
        for query in catalog_clips(self._ws, "query"):
            queries.setdefault(query.caption, query)
        return queries

    @property
    def num_unused(self) -> int:
        """The queries that no video starts from, because another one has the same caption."""
        return len(catalog_clips(self._ws, "query")) - len(self._queries) if self.are_used else 0

    def content(self, prompt: str) -> list[Any]:
        """What a video's key holds of its first frame: the query, and which frame of it that is."""
        return [self._queries[prompt].clip_id, self._rule.content()] if self.are_used else []

    def arguments(self, prompts: Sequence[str]) -> dict[str, Any]:
        """What :meth:`~motive_pipeline.models.protocol.VideoModel.generate` takes besides, for videos of ``prompts``.

        Raises:
            RejectRow: a query's file can no longer be read, or has changed.
        """
        return {"first_frames": [self._frame(prompt) for prompt in prompts]} if self.are_used else {}

    def _frame(self, prompt: str) -> UInt8[np.ndarray, "H W 3"]:
        if prompt not in self._read:
            query = self._queries[prompt]
            self._read[prompt] = read_clip(query.file, self._rule).frames_THWC[0].copy()
            require_unchanged(query, HashMemory(self._ws.state))
        return self._read[prompt]
