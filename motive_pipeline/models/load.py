"""Loads the model that the config's ``model`` section names. Importing this module imports neither torch nor diffusers."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from motive_pipeline import config
from motive_pipeline.errors import MotiveError
from motive_pipeline.graph import resolve_dotted
from motive_pipeline.models.adapter_file import LORA_FILE, adapter_file
from motive_pipeline.models.folder import (
    components,
    encoders_hash,
    latent_grid,
    model_family,
    model_files,
    model_folder,
    model_hash,
    named,
    observe_base_encoders,
    observe_base_model,
    require_fitting,
    require_pipeline,
)
from motive_pipeline.models.shared import remember_components, shared_components
from motive_pipeline.models.sound import require_fits
from motive_pipeline.models.tasks import model_task

if TYPE_CHECKING:
    import torch

    from motive_pipeline.models.protocol import VideoModel

__all__ = [
    "encoders_hash",
    "fixed_device",
    "latent_grid",
    "load_attributed_model",
    "load_model",
    "model_folder",
    "model_hash",
    "observe_base_encoders",
    "observe_base_model",
    "require_device",
    "require_fitting",
]

_base_models: dict[tuple[object, ...], VideoModel] = {}


def load_model(
    model: config.Model, *, threads: int, path: Path | None = None, fresh_adapter: config.Lora | None = None, encodes_only: bool = False
) -> VideoModel:
    """The base model, or the checkpoint at ``path`` with the same settings. ``fresh_adapter`` is given to the base model, as training 0 begins with it.

    The base model is loaded once per process (and again when its files have changed) and shared, so nobody may leave its weights changed: for training,
    load the base model's own folder as ``path``. A checkpoint's transformer is loaded anew each time. Its other components, except for the scheduler,
    are those of the model that was loaded before, if their files are the same.

    One transformer is on the device at a time (placement.py): that of the model that was loaded or used last. With ``encodes_only`` none is, until
    the model is asked to predict.

    Raises:
        MotiveError: there is no such model, it is not whole, or ``model.device`` does not exist here.
    """
    _prepare_torch(threads)
    if path is not None:
        require_pipeline(path, "checkpoint")
        return _placed(_with_adapter(_load(model, path, "checkpoint"), model, path, fresh_adapter), encodes_only)
    folder = model_folder(model)
    stats = tuple((file.stat().st_size, file.stat().st_mtime_ns, file.stat().st_ino) for file in model_files(folder))
    key = (
        folder,
        stats,
        model.adapter,
        fresh_adapter,
        model.expert,
        model.dtype,
        model.device,
        model.max_prompt_tokens,
        model.frame_rate,
        model.task,
    )
    if key not in _base_models:
        _base_models.clear()
        _base_models[key] = _with_adapter(_load(model, folder, named(model)), model, folder, fresh_adapter)
    return _placed(_base_models[key], encodes_only)


def _placed(model: VideoModel, encodes_only: bool) -> VideoModel:
    from motive_pipeline.models.placement import occupy, vacate

    if encodes_only:
        vacate(model.device)
    else:
        occupy(model.transformer, model.device)
    return model


def load_attributed_model(settings: config.Config, *, dtype: str | None = None, path: Path | None = None) -> VideoModel:
    """:func:`load_model` of what a variant's gradients are taken of: its expert, with a fresh adapter where it attributes one. ``dtype`` in place of
    ``model.dtype``. Give the base model's own folder as ``path`` where the weights are to be changed.
    """
    section = settings.attributed_model if dtype is None else settings.attributed_model.model_copy(update={"dtype": dtype})
    return load_model(section, threads=settings.engine.threads, path=path, fresh_adapter=settings.fresh_adapter)


def _with_adapter(loaded: VideoModel, model: config.Model, folder: Path, fresh: config.Lora | None) -> VideoModel:
    """``loaded`` from ``folder`` with the adapter that a training left there, else that of ``model.adapter``, else ``fresh``, if there is one."""
    own = folder / LORA_FILE
    is_trained = own.exists() and folder != model_folder(model)
    if not is_trained and model.adapter is None and fresh is None:
        return loaded
    from motive_pipeline.models.adapter import add_adapter, fresh_adapter_seed, load_adapter

    if not is_trained and model.adapter is None:
        assert fresh is not None
        add_adapter(loaded.transformer, fresh, fresh_adapter_seed(0))
        return loaded
    what = "checkpoint" if is_trained else "model.adapter"
    file = own if is_trained or model.adapter is None else adapter_file(model.adapter)
    load_adapter(loaded.transformer, file, pipeline=model_family(folder, what).pipeline, what=what)
    return loaded


def _load(model: config.Model, folder: Path, what: str) -> VideoModel:
    import torch

    from motive_pipeline.models.diffusers_model import DiffusersModel

    parts = components(folder, what)
    require_fits(parts, what)
    family = model_family(folder, what)
    loaded = resolve_dotted(family.load)(
        folder,
        expert=model.expert,
        device=_device(model.device),
        compute_dtype={"float32": torch.float32, "bfloat16": torch.bfloat16}[model.dtype],
        max_prompt_tokens=model.max_prompt_tokens,
        shared=shared_components(parts, own=model.expert, dtype=model.dtype),
        **({"frame_rate": model.frame_rate} if family.told_frame_rate else {}),
        **({"task": model_task(model, family, folder, what)} if family.tasks is not None else {}),
    )
    if isinstance(loaded, DiffusersModel):
        remember_components(parts, loaded.pipeline.components, own=model.expert, dtype=model.dtype)
    return loaded


def require_device(name: str, setting: str = "model.device") -> None:
    """Check that the device that ``setting`` names exists, without loading a model. ``auto`` and ``cpu`` always do, and load no library.

    Raises:
        MotiveError: it does not exist here.
    """
    if name not in ("auto", "cpu"):
        _device(name, setting)


def fixed_device(name: str, threads: int) -> torch.device:
    """The device that ``model.device`` names. Fixes torch's threads and kernels, as for the video model.

    Raises:
        MotiveError: the device does not exist here.
    """
    _prepare_torch(threads)
    return _device(name)


def _device(name: str, setting: str = "model.device") -> torch.device:
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise MotiveError(
            f"{setting} = {name!r} cannot be used here ({str(error).splitlines()[0]}). Use auto, cpu, or cuda where there is one."
        ) from error
    return device


def _prepare_torch(threads: int) -> None:
    """Fix the number of threads and use deterministic kernels where torch has them: same inputs, same bits."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    import torch

    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
