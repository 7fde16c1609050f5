"""One side of benchmarks/peers.py: features of the same clips by one library, in a process of its own.

    python -m benchmarks.peer_sides SIDE --folder DIR --clips N        writes DIR/SIDE.npy, prints one line of JSON

Every side takes the gradient of the same motion-weighted loss of the same model, through the library's own public classes. The clock runs
from clips in memory to features in memory; import, model and fixed projection matrices that are made once lie before it.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch.func import functional_call

from benchmarks import common
from motive_pipeline import config
from motive_pipeline.attribution.gradient import build_clip_gradient
from motive_pipeline.attribution.loss import location_error
from motive_pipeline.attribution.noise import latent_noise
from motive_pipeline.config.timesteps import ALL_TIMESTEPS
from motive_pipeline.models.wan import WanModel

PROJ_DIM = 512
LOGRA_RANK = 16
DENSE_BATCH = 12
"""Clips that share one pass over a dense projection matrix, which is drawn anew for each batch: the larger, the cheaper a clip, and the more memory
(24 need more than 23 GB)."""

DATTRI_BATCH = 4
"""The same for dattri, where 8 need more than 18 GB."""

Features = Callable[[], np.ndarray]


class LossModule(torch.nn.Module):
    """The loss of each clip of a batch as a module: what libraries call functionally or hang their hooks on."""

    def __init__(self, model: WanModel) -> None:
        super().__init__()
        common.use_diffusers_attention(model)  # what a user of the library has
        self.transformer = model.transformer
        self.device = model.device
        self._predicting = [model]  # in a list: not to be seen as a submodule
        gradient = config.Gradient()
        self._timestep = gradient.timesteps(ALL_TIMESTEPS)[0]
        self._noise_CFHW = latent_noise(gradient.noise_seed, common.LATENTS_CFHW)

    def forward(self, latents: torch.Tensor, prompt: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Motion-weighted loss [B] of latents [B, C, F, h, w], prompt embeddings [B, L, E] and masks [B, F, h, w]."""
        error_BFHW = location_error(
            self._predicting[0],
            latents,
            prompt,
            timestep_B=torch.full((len(latents),), self._timestep),
            noise_BCFHW=self._noise_CFHW.expand_as(latents),
        )
        return (mask * error_BFHW).mean(dim=(1, 2, 3))


def ours(projection: str) -> Callable[[WanModel, list[common.Clip]], Features]:
    """This pipeline, one clip a pass."""

    def prepare(model: WanModel, clips: list[common.Clip]) -> Features:
        gradient = build_clip_gradient(model, config.Gradient.model_validate({"projection": projection}))
        return lambda: np.stack([gradient(c.latents_CFHW, c.conditioning, c.mask_FHW).gradient_P[:PROJ_DIM] for c in clips])

    return prepare


def trak(model: WanModel, clips: list[common.Clip]) -> Features:
    """traker: TRAKer.featurize with what it chooses on a CPU, a dense Gaussian matrix; float32, since its half precision has no CPU kernel."""
    from trak import TRAKer
    from trak.modelout_functions import AbstractModelOutput

    class MotionLoss(AbstractModelOutput):
        def __init__(self) -> None:
            pass

        @staticmethod
        def get_output(module, weights, buffers, latents, prompt, mask):
            return functional_call(module, (weights, buffers), (latents[None], prompt[None], mask[None]))[0]

        def get_out_to_loss_grad(self, module, weights, buffers, batch):
            return torch.ones(len(batch[0]), 1)

    module = LossModule(model)
    folder = tempfile.mkdtemp(dir=os.environ.get("TMPDIR"))
    traker = TRAKer(
        model=module, task=MotionLoss(), train_set_size=len(clips), save_dir=folder, load_from_save_dir=False, device="cpu",
        proj_dim=PROJ_DIM, use_half_precision=False, logging_level=logging.ERROR,
    )  # fmt: skip
    traker.load_checkpoint(module.state_dict(), model_id=0)

    def run() -> np.ndarray:
        for batch in _batches(clips, DENSE_BATCH):
            traker.featurize(batch, num_samples=len(batch[0]))
        return np.array(traker.saver.current_store["grads"])

    return run


def dattri(model: WanModel, clips: list[common.Clip]) -> Features:
    """dattri: the per-sample gradients and the random_project of its TRAK and TracIn attributors, with its default, a dense Gaussian matrix."""
    from dattri.func.projection import random_project
    from dattri.task import AttributionTask

    module = LossModule(model)

    def loss(parameters, data):
        latents, prompt, mask = data
        return functional_call(module, parameters, (latents[None], prompt[None], mask[None]))[0]

    task = AttributionTask(loss_func=loss, model=module, checkpoints=module.state_dict())
    parameters, _ = task.get_param(ckpt_idx=0)
    gradient = task.get_grad_loss_func(in_dims=(None, 0))

    def run() -> np.ndarray:
        rows = []
        for batch in _batches(clips, DATTRI_BATCH):
            gradients = gradient(parameters, batch)
            project = random_project(gradients, len(batch[0]), proj_dim=PROJ_DIM, proj_max_batch_size=32, device="cpu")
            rows.append(project(gradients, ensemble_id=0).detach().numpy())
        return np.concatenate(rows)

    return run


def dattri_logra(model: WanModel, clips: list[common.Clip]) -> Features:
    """dattri's LoGraAttributor: each Linear's gradient projected to 16 x 16 from both sides, never formed."""
    from dattri.algorithm.logra import LoGraAttributor
    from dattri.task import AttributionTask
    from torch.utils.data import DataLoader

    module = LossModule(model)

    def loss(module, batch, device):
        return module(**batch).sum()

    task = AttributionTask(loss_func=loss, model=module, checkpoints=module.state_dict())
    with tempfile.TemporaryDirectory() as folder:
        attributor = LoGraAttributor(task, hessian="Identity", proj_dim=LOGRA_RANK**2, cache_dir=folder)
    loader = DataLoader([{"latents": c.latents_CFHW, "prompt": c.prompt_LE, "mask": c.mask_FHW} for c in clips], batch_size=1)
    attributor._setup_compressors(loader)
    attributor.metadata.save_metadata = lambda: None

    def run() -> np.ndarray:
        attributor.cache(loader)
        cached = attributor.offload_manager.cached_gradients
        return torch.cat([cached[number] for number in sorted(cached)]).numpy()

    return run


def bergson(target: str) -> Callable[[WanModel, list[common.Clip]], Features]:
    """bergson's InMemoryCollector around our own backward pass (its own loop is for language models). ``per_module``: 16 x 16 for each Linear;
    ``global``: one dense Philox matrix over all of them. It refuses inputs without a sequence axis, so the time embedding and the patch
    convolution are left out; weights need no gradient, as in its own setup.
    """

    def prepare(model: WanModel, clips: list[common.Clip]) -> Features:
        from bergson import GradientProcessor, IndexConfig, InMemoryCollector
        from datasets import Dataset

        module = LossModule(model)
        module.requires_grad_(False)
        module.transformer.patch_embedding.requires_grad_(True)
        dense = target == "global"
        processor = GradientProcessor(projection_dim=PROJ_DIM if dense else LOGRA_RANK, projection_target=target)
        collector = InMemoryCollector(
            model=module, data=Dataset.from_dict({"clip": list(range(len(clips)))}), cfg=IndexConfig(run_path="unused"), processor=processor,
            filter_modules="*time_embedder*,*time_proj*,*patch_embedding*",
        )  # fmt: skip

        def run() -> np.ndarray:
            done = 0
            for latents, prompt, mask in _batches(clips, DENSE_BATCH if dense else 1):
                with collector.with_batch(None):
                    losses = module(latents, prompt.requires_grad_(True), mask)
                    losses.sum().backward()
                    collector.process_batch(list(range(done, done + len(latents))), losses=losses)
                done += len(latents)
            collector.teardown()
            return np.concatenate([rows.float().numpy().reshape(len(clips), -1) for rows in collector.gradients.values()], axis=1)

        return run

    return prepare


SIDES: dict[str, Callable[[WanModel, list[common.Clip]], Features]] = {
    "fastfood": ours("fastfood"),
    "factored": ours("factored"),
    "countsketch": ours("countsketch"),
    "trak": trak,
    "dattri": dattri,
    "dattri-logra": dattri_logra,
    "bergson": bergson("per_module"),
    "bergson-global": bergson("global"),
}


def _batches(clips: list[common.Clip], size: int) -> list[tuple[torch.Tensor, ...]]:
    """Latents, prompts and masks, ``size`` clips at a time."""
    fields = ("latents_CFHW", "prompt_LE", "mask_FHW")
    parts = [clips[at : at + size] for at in range(0, len(clips), size)]
    return [tuple(torch.stack([getattr(clip, name) for clip in part]) for name in fields) for part in parts]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("side", choices=list(SIDES))
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--clips", type=int, required=True)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    clips = common.drawn_clips(arguments.clips)
    run = SIDES[arguments.side](common.build_model(torch.device("cpu")), clips)
    found: list[np.ndarray] = []
    held = common.resident_mb()
    cost = common.measured(lambda: found.append(run()))
    np.save(arguments.folder / f"{arguments.side}.npy", found[0].astype(np.float32))
    result = {"seconds": cost.seconds, "cpu_s": cost.cpu_s, "entries": found[0].shape[1]}
    print(json.dumps(result | {"peak_mb": common.peak_rss_mb(), "held_mb": held}))


if __name__ == "__main__":
    main()
