"""The Muon optimizer, and a learning-rate schedule over computing time."""

import math
import time

import torch

from motive_pipeline.internals.torch import subtract_each


class Muon(torch.optim.Optimizer):
    """Momentum with an orthogonalised (Newton-Schulz) update of each weight matrix; a convolution is a matrix with one row per filter.

    Matrices of equal shape form a parameter group and are computed as one stack.
    """

    def __init__(self, params, lr: float | torch.Tensor, momentum: float = 0.95) -> None:
        same_shape: dict[torch.Size, list] = {}
        for param in params:
            same_shape.setdefault(param.flatten(1).shape, []).append(param)
        groups = [{"params": params, "lr": lr.clone() if isinstance(lr, torch.Tensor) else lr} for params in same_shape.values()]
        super().__init__(groups, {"momentum": momentum})

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            params, momentum = group["params"], group["momentum"]
            gradients = torch.stack([param.grad.flatten(1) for param in params])
            state = self.state[params[0]]
            if "velocity" not in state:
                state["velocity"] = torch.zeros_like(gradients)
            velocity = state["velocity"].lerp_(gradients, 1 - momentum)
            _, rows, columns = gradients.shape
            updates = orthogonalised(gradients.lerp(velocity, momentum)) * (group["lr"] * max(1.0, rows / columns) ** 0.5)
            subtract_each(params, [update.view(param.shape) for param, update in zip(params, updates, strict=True)])


def orthogonalised(matrices: torch.Tensor) -> torch.Tensor:
    """Approximately U V^T of each matrix's singular value decomposition U S V^T; shape (number, rows, columns)."""
    x = matrices / (matrices.flatten(1).norm(dim=1)[:, None, None] + 1e-7)
    tall = x.shape[1] > x.shape[2]
    x = x.mT if tall else x
    for _ in range(3):  # small matrices need fewer iterations than Muon's usual five
        gram = x @ x.mT
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x.mT if tall else x


class LearningRateSchedule:
    """Learning rates over time: a short warm-up, then a cosine that reaches zero when the minutes are over.

    On a CPU the clock is the computing time of the training thread, so that a delayed training loses no steps and helper threads (the VAE's) do
    not count twice. On a GPU it is wall-clock time. Each optimizer is given with its initial rate.
    """

    def __init__(
        self, optimizers: list[tuple[torch.optim.Optimizer, float]], minutes: float, *, device: torch.device, warmup_steps: int = 50
    ) -> None:
        self.groups = [(group, rate) for optimizer, rate in optimizers for group in optimizer.param_groups]
        self.budget_s, self.warmup_steps = minutes * 60, warmup_steps
        self.clock = time.thread_time if device.type == "cpu" else time.monotonic
        self.started_s, self.steps = self.clock(), 0

    @property
    def progress(self) -> float:
        return min(1.0, (self.clock() - self.started_s) / self.budget_s)

    def advance(self, progress: float | None = None) -> bool:
        """Set the rates for the next step by the clock, or by `progress` if given. False when the time is over."""
        progress = self.progress if progress is None else progress
        self.steps += 1
        factor = min(1.0, self.steps / self.warmup_steps) * 0.5 * (1 + math.cos(math.pi * progress))
        for group, rate in self.groups:
            set_rate(group, rate * factor)
        return progress < 1


def set_rate(group: dict, rate: float) -> None:
    """Set the rate, in place if it is a tensor, which a CUDA graph reads at every replay."""
    if isinstance(group["lr"], torch.Tensor):
        group["lr"].fill_(rate)
    else:
        group["lr"] = rate


def split_parameters(module: torch.nn.Module, plain: tuple[str, ...]) -> tuple[list, list]:
    """The matrices for Muon, and the rest for AdamW: vectors and all parameters whose name contains a part of `plain`."""
    matrices, rest = [], []
    for name, param in module.named_parameters():
        inside = param.ndim >= 2 and min(len(param), param[0].numel()) > 1 and not any(part in name for part in plain)
        (matrices if inside else rest).append(param)
    return matrices, rest
