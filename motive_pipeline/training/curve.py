"""The loss on held-out queries in the course of a training (``finetune.eval_every``)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from motive_pipeline.attribution.held_out import HeldOutLoss
from motive_pipeline.models.protocol import VideoModel


@dataclass(kw_only=True)
class HeldOutCurve:
    """Measures ``model`` whenever :meth:`watch` is called. The point at 0 steps is the base model, from which every training starts: it is measured once
    for all curves that share ``base``."""

    held_out: HeldOutLoss
    model: VideoModel
    base: list[float] = field(default_factory=list)
    """The loss at 0 steps, once it is known."""
    steps: list[int] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)
    mean_weights_loss: list[float] = field(default_factory=list)
    """With the running mean of the weights, from the second point on; empty without ``finetune.ema``."""

    def watch(self, step: int, has_mean_weights: bool) -> None:
        """Measure the model as it is after ``step`` steps.

        Raises:
            GateFailed: a loss is not finite, or a query can no longer be read.
        """
        loss = self.base[0] if step == 0 and self.base else self.held_out.mean(self.model)
        if step == 0:
            self.base[:] = [loss]
        if has_mean_weights:
            self.mean_weights_loss.append(loss)
        else:
            self.steps.append(step)
            self.loss.append(loss)

    def go_on(self, record: Mapping[str, Any] | None) -> None:
        """Go on with the curve ``record`` of a stopped training, if it is over the same queries and draws; else begin with the base model, which ``model`` has
        to be then."""
        if record is None or record["key"] != self.held_out.key:
            self.watch(0, False)
            return
        self.steps[:] = record["steps"]
        self.loss[:] = record["loss"]
        self.mean_weights_loss[:] = (record["mean_weights_loss"] or [])[1:]
        self.base[:] = self.loss[:1]

    @property
    def note(self) -> str:
        """The last point in words, for the progress line."""
        newest = (self.mean_weights_loss or self.loss)[-1]
        return f"{'held-out' if self.held_out.is_held_out else 'in-sample'} loss {newest:.4f} (base {self.loss[0]:.4f})"

    def record(self) -> dict[str, Any]:
        """The curve as the training's record holds it. Curves with the same ``key`` are over the same queries and draws."""
        return {
            "key": self.held_out.key,
            "is_held_out": self.held_out.is_held_out,
            "queries": [query.clip_id for query in self.held_out.queries],
            "draws": len(self.held_out.draws),
            "steps": self.steps,
            "loss": self.loss,
            "mean_weights_loss": [self.loss[0], *self.mean_weights_loss] if self.mean_weights_loss else None,
        }
