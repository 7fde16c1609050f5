"""The masks that weigh the loss of one role's clips, or the lack of them where ``gradient.mask`` has it plain."""

from __future__ import annotations

import torch
from jaxtyping import Float

from motive_pipeline import config
from motive_pipeline.graph import Role, weighs_loss
from motive_pipeline.motion.stage import MaskSet
from motive_pipeline.storage.workspace import Workspace


class LossMasks:
    """The published masks of a role, as ``gradient.mask`` uses them. A plain loss has none, and every clip can take part in it.

    Raises:
        NotPublished: the loss is weighted, and there are no masks yet.
    """

    def __init__(self, ws: Workspace, role: Role, gradient: config.Gradient) -> None:
        self._masks: MaskSet | None = MaskSet(ws, role) if weighs_loss(gradient.mask, role) else None

    @property
    def are_used(self) -> bool:
        """Whether the loss is weighted by motion."""
        return self._masks is not None

    def __contains__(self, clip_id: object) -> bool:
        return self._masks is None or clip_id in self._masks

    def get(self, clip_id: str) -> Float[torch.Tensor, "F h w"] | None:
        """The clip's mask; None for a plain loss."""
        return None if self._masks is None else self._masks.get(clip_id)

    def content(self, clip_id: str) -> str:
        """The hash of the clip's mask in the keys of rows; empty for a plain loss."""
        return "" if self._masks is None else self._masks.content(clip_id)
