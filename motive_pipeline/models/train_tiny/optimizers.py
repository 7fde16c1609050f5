"""Muon, and learning rates on the training's own computing time."""

import math
import time

import torch


class Muon(torch.optim.Optimizer):
    """Momentum whose update of each weight matrix is orthogonalised (Newton-Schulz); a convolution is a matrix with one row a filter."""

    def __init__(self, params, lr: float, momentum: float = 0.95) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            same_shape: dict[tuple, list] = {}
            for param in group["params"]:
                velocity = self.state[param].setdefault("velocity", torch.zeros_like(param))
                velocity.lerp_(param.grad, 1 - group["momentum"])
                direction = param.grad.lerp(velocity, group["momentum"]).reshape(len(param), -1)
                same_shape.setdefault(direction.shape, []).append((param, direction))
            for (rows, columns), pairs in same_shape.items():
                updates = orthogonalised(torch.stack([direction for _, direction in pairs]))
                for (param, _), update in zip(pairs, updates, strict=True):
                    param.sub_(update.reshape(param.shape), alpha=group["lr"] * max(1.0, rows / columns) ** 0.5)


def orthogonalised(matrices: torch.Tensor) -> torch.Tensor:
    """Near to U V^T of each one's singular value decomposition U S V^T; (number, rows, columns)."""
    x = matrices / (matrices.flatten(1).norm(dim=1)[:, None, None] + 1e-7)
    tall = x.shape[1] > x.shape[2]
    x = x.mT if tall else x
    for _ in range(3):  # Muon's usual five are more than matrices this small need
        gram = x @ x.mT
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x.mT if tall else x


class Schedule:
    """Learning rates on the computing time of the thread that trains: a short warm-up, then a cosine that reaches zero when the minutes are over.

    So a training that is held up loses no steps, and threads that help it (the VAE's) do not count twice.
    """

    def __init__(self, optimizers: list[torch.optim.Optimizer], minutes: float, warmup_steps: int = 50) -> None:
        self.groups = [(group, group["lr"]) for optimizer in optimizers for group in optimizer.param_groups]
        self.budget_s, self.warmup_steps = minutes * 60, warmup_steps
        self.started_s, self.steps = time.thread_time(), 0

    @property
    def progress(self) -> float:
        return min(1.0, (time.thread_time() - self.started_s) / self.budget_s)

    def advance(self, progress: float | None = None) -> bool:
        """Set the rates for the next step, from the clock unless `progress` is given; false when the time is over."""
        progress = self.progress if progress is None else progress
        self.steps += 1
        factor = min(1.0, self.steps / self.warmup_steps) * 0.5 * (1 + math.cos(math.pi * progress))
        for group, rate in self.groups:
            group["lr"] = rate * factor
        return progress < 1


def split_parameters(module: torch.nn.Module, plain: tuple[str, ...]) -> tuple[list, list]:
    """(matrices for Muon, the rest for AdamW): the rest are vectors and whatever is named in `plain`."""
    matrices, rest = [], []
    for name, param in module.named_parameters():
        inside = param.ndim >= 2 and min(len(param), param[0].numel()) > 1 and not any(part in name for part in plain)
        (matrices if inside else rest).append(param)
    return matrices, rest
