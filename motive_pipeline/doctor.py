"""``motive doctor``: looks at the machine and the settings before a run, and says in a line each what is fine and what to do."""

from __future__ import annotations

import importlib.metadata
import math
import os
import platform
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from motive_pipeline.bucket.address import address_of
from motive_pipeline.bucket.client import Bucket
from motive_pipeline.config import Config, load_config
from motive_pipeline.errors import MotiveError
from motive_pipeline.models.memory import STAGES
from motive_pipeline.models.memory_limit import Need, shown_gb, stage_need
from motive_pipeline.models.read_shapes import local_folder, model_shape

Status = Literal["ok", "warn", "fail"]
GB = 1e9
SHOWN_LIBRARIES = ("torch", "diffusers", "transformers", "dagster", "zarr", "duckdb", "av")
DECODERS = ("h264", "hevc", "av1", "vp9")
LEAST_FREE_GB, WANTED_FREE_GB = 1.0, 10.0
LEAST_MEMORY_GB = 3.0
"""What the demo takes, with torch and diffusers loaded."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What was found about one thing: ``fail`` stops a run, ``warn`` may. ``detail`` says what to do."""

    status: Status
    about: str
    detail: str

    def __str__(self) -> str:
        return f"{self.status:4}  {self.about:8}  {self.detail}"


@dataclass(frozen=True, kw_only=True)
class _Model:
    """The base model on disk: bytes of all weights, and the number of parameters that are attributed and trained."""

    num_bytes: int
    num_parameters: int


def examine() -> Iterator[Finding]:
    """Look at everything, one finding after the other. Nothing is downloaded, and nothing is left on the disk."""
    yield _versions()
    finding, config = _settings()
    yield finding
    yield _video()
    finding, model = _model(config)
    yield finding
    yield _memory(config, model)
    yield _gpu(config)
    if config is not None and config.engine.kind == "ray":
        yield _cluster(config)
    yield _disk(config, model)
    yield from _object_storage(config)


def _versions() -> Finding:
    """Whether every dependency is installed in a version that the package accepts."""
    from packaging.requirements import Requirement

    try:
        requirements = importlib.metadata.requires("motive-pipeline") or []
    except importlib.metadata.PackageNotFoundError:
        detail = (
            "motive-pipeline is not installed, it runs from a folder: the versions of its libraries are not checked. Install it with pip"
        )
        return Finding(status="warn", about="versions", detail=detail)
    wrong = []
    for text in requirements:
        needed = Requirement(text)
        if needed.marker is not None and not needed.marker.evaluate({"extra": ""}):
            continue
        try:
            found = importlib.metadata.version(needed.name)
        except importlib.metadata.PackageNotFoundError:
            wrong.append(f"{needed.name} is missing")
            continue
        if not needed.specifier.contains(found, prereleases=True):
            wrong.append(f"{needed.name} {found} is not {needed.specifier}")
    if wrong:
        return Finding(status="fail", about="versions", detail=f"{'; '.join(wrong)}. Install motive-pipeline again with pip")
    shown = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in SHOWN_LIBRARIES)
    own = importlib.metadata.version("motive-pipeline")
    return Finding(status="ok", about="versions", detail=f"motive-pipeline {own}, Python {platform.python_version()}, {shown}")


def _settings() -> tuple[Finding, Config | None]:
    """The config that a run would use. No file at all is not a fault: whoever just installed the package has none."""
    named = os.environ.get("MOTIVE_CONFIG")
    if not named and not Path("motive.yaml").exists():
        detail = "no motive.yaml here; looking at the demo's needs. Name a config with --config, or try `motive demo`"
        return Finding(status="warn", about="settings", detail=detail), None
    try:
        config = load_config()
    except MotiveError as error:
        return Finding(status="fail", about="settings", detail=" ".join(str(error).split())), None
    return Finding(status="ok", about="settings", detail=str(config.file)), config


def _video() -> Finding:
    """Whether frames survive being written and read with the FFmpeg inside PyAV, and which codecs it reads."""
    import av
    import numpy as np

    from motive_pipeline.video.encode import write_mp4

    frames_THWC = np.zeros((5, 64, 64, 3), np.uint8)
    frames_THWC[:, :, 32:] = 200
    try:
        with tempfile.TemporaryDirectory() as folder:
            write_mp4(Path(folder) / "test.mp4", frames_THWC, 8)
            with av.open(str(Path(folder) / "test.mp4")) as container:
                read = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    except (OSError, ValueError) as error:  # FFmpeg's errors are both
        return Finding(
            status="fail",
            about="video",
            detail=f"H.264 cannot be written and read ({error}). Reinstall PyAV: pip install --force-reinstall av",
        )
    if len(read) != len(frames_THWC) or np.abs(np.stack(read).astype(int) - frames_THWC).mean() > 8:
        return Finding(
            status="fail",
            about="video",
            detail="a written test video reads back differently. Reinstall PyAV: pip install --force-reinstall av",
        )
    missing = [name for name in DECODERS if not _has_decoder(name)]
    what = f"PyAV {av.__version__}, libavcodec {'.'.join(map(str, av.library_versions['libavcodec']))}"
    if missing:
        return Finding(
            status="warn",
            about="video",
            detail=f"{what}; it does not read {', '.join(missing)}: such clips will be rejected. Use PyAV's own wheel",
        )
    return Finding(status="ok", about="video", detail=f"{what}; writes H.264, reads {', '.join(DECODERS)}")


def _has_decoder(name: str) -> bool:
    from av.codec import Codec

    try:
        Codec(name, "r")
    except ValueError:
        return False
    return True


def _model(config: Config | None) -> tuple[Finding, _Model | None]:
    """Whether the base model is whole on this machine and takes what the settings ask for, and its size. All of its weights are read."""
    from motive_pipeline import config as sections
    from motive_pipeline.models.folder import components, input_rules, model_folder, named
    from motive_pipeline.models.input_rules import require_fitting_settings
    from motive_pipeline.models.sound import require_finite_weights, require_fits

    section = config.model if config is not None else sections.Model(path="tiny")
    if not _is_local(section):
        into = "the hub's cache" if address_of(section.path) is None else section.cache
        detail = f"{section.path} is not on this machine; the first run downloads it, which needs the network and room in {into}"
        return Finding(status="warn", about="model", detail=detail), None
    try:
        folder, what = local_folder(section) if address_of(section.path) is not None else model_folder(section), named(section)
        assert folder is not None
        parts = components(folder, what)
        require_fits(parts, what)
        require_finite_weights(parts, what)
        if config is not None:
            require_fitting_settings(input_rules(section), config, what)
        model = _size(folder, section.expert)
    except (MotiveError, OSError, ValueError) as error:
        return Finding(status="fail", about="model", detail=" ".join(str(error).split())), None
    detail = (
        f"{section.path}: {model.num_parameters / 1e6:.1f} M parameters in {section.expert}, {model.num_bytes / GB:.2f} GB, in {folder}"
    )
    return Finding(status="ok", about="model", detail=detail), model


def _is_local(section) -> bool:
    """Whether the model need not be downloaded. A name that is neither folder nor hub id is local, too: :func:`model_folder` explains it."""
    from huggingface_hub import try_to_load_from_cache

    if address_of(section.path) is not None:
        return local_folder(section) is not None
    if section.path == "tiny" or Path(section.path).is_absolute() or section.path.count("/") != 1:
        return True
    return Path(section.path).is_dir() or isinstance(
        try_to_load_from_cache(section.path, "model_index.json", revision=section.revision), str
    )


def _size(folder: Path, expert: str) -> _Model:
    from safetensors import safe_open

    num_parameters = 0
    for file in (folder / expert).glob("*.safetensors"):
        with safe_open(file, "numpy") as weights:
            num_parameters += sum(math.prod(weights.get_slice(name).get_shape()) for name in weights.keys())  # noqa: SIM118
    return _Model(num_bytes=sum(file.stat().st_size for file in folder.rglob("*.safetensors")), num_parameters=num_parameters)


def _memory(config: Config | None, model: _Model | None) -> Finding:
    """Main memory, against what loading the model takes (or each stage, where the model runs on the CPU)."""
    total_gb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GB
    what = f"{total_gb:.0f} GB of main memory"
    if total_gb < LEAST_MEMORY_GB:
        return Finding(status="fail", about="memory", detail=f"{what}; even the demo needs {LEAST_MEMORY_GB:.0f} GB")
    if _wants_gpu(config):
        need_gb = LEAST_MEMORY_GB + (model.num_bytes / GB if model is not None else 0.0)
        if total_gb < need_gb:
            detail = f"{what}; this model needs about {need_gb:.0f} GB. Use a larger machine or a smaller model"
            return Finding(status="warn", about="memory", detail=detail)
        return Finding(status="ok", about="memory", detail=f"{what}; about {need_gb:.0f} GB are needed")
    needs = _needs(config, have_gb=total_gb - LEAST_MEMORY_GB, device="this machine's main memory beside the libraries", on_gpu=False)
    return _of_needs("memory", what, needs)


def _needs(config: Config | None, *, have_gb: float, device: str, on_gpu: bool) -> list[Need]:
    """What each stage needs; none if there is no config, or the model's shape is not known."""
    shape = model_shape(config.model) if config is not None else None
    if config is None or shape is None:
        return []
    return [stage_need(shape, config, stage, have_gb=have_gb, device=device, on_gpu=on_gpu) for stage in STAGES]


def _of_needs(about: str, what: str, needs: list[Need]) -> Finding:
    """The largest need, or every stage that does not fit. Attribution alone may fit where training does not, so that is a warning."""
    wrong = [str(need) for need in needs if not need.fits]
    if wrong:
        return Finding(status="warn", about=about, detail=f"{what}. {'. '.join(wrong)}")
    if not needs:
        return Finding(status="ok", about=about, detail=what)
    most = max(needs, key=lambda need: need.need_gb)
    return Finding(status="ok", about=about, detail=f"{what}; {most.stage} needs most, about {shown_gb(most.need_gb)}")


def _wants_gpu(config: Config | None) -> bool:
    import torch

    device = config.model.device if config is not None else "auto"
    return device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())


def _gpu(config: Config | None) -> Finding:
    """The device that ``model.device`` names, and its memory."""
    import torch

    wanted = config.model.device if config is not None else "auto"
    listed = () if config is None else config.engine.all_devices
    if absent := [name for name in listed if name not in ("cpu", *(f"cuda:{number}" for number in range(torch.cuda.device_count())))]:
        detail = f"engine.devices names {absent[0]!r}; there are {torch.cuda.device_count()} GPUs. Use auto, or list those that there are"
        return Finding(status="fail", about="gpu", detail=detail)
    if not torch.cuda.is_available():
        if wanted.startswith("cuda"):
            detail = f"model.device = {wanted!r}, and torch {torch.__version__} finds no GPU. Install torch for your CUDA version, or set model.device: cpu"
            return Finding(status="fail", about="gpu", detail=detail)
        if config is None or config.model.path == "tiny" or wanted == "cpu":
            return Finding(status="ok", about="gpu", detail="none, and none is needed: the model runs on the CPU")
        return Finding(
            status="warn",
            about="gpu",
            detail=f"none that torch {torch.__version__} can use; a model of a billion parameters is too slow on a CPU for more than a few clips",
        )
    try:
        device = torch.device(wanted if wanted.startswith("cuda") else "cuda")
        free, total = (each / GB for each in torch.cuda.mem_get_info(device))
        name = torch.cuda.get_device_name(device)
    except RuntimeError as error:
        return Finding(
            status="fail",
            about="gpu",
            detail=f"model.device = {wanted!r}: {str(error).splitlines()[0]}. There are {torch.cuda.device_count()} GPUs",
        )
    what = f"{name}, {free:.0f} of {total:.0f} GB free"
    found = _of_needs("gpu", what, _needs(config, have_gb=total, device="this GPU", on_gpu=True))
    busy = [need for need in _needs(config, have_gb=free, device="this GPU", on_gpu=True) if not need.fits]
    if found.status == "ok" and busy:
        detail = f"{what}; {busy[0].stage} needs about {shown_gb(busy[0].need_gb)}. Other processes use this GPU"
        return Finding(status="warn", about="gpu", detail=detail)
    return found


def _cluster(config: Config) -> Finding:
    """Whether the Ray cluster of ``engine.address`` answers, and has room for ``engine.workers.least`` workers."""
    from motive_pipeline.devices.ray_crew import Crew, told_needs
    from motive_pipeline.storage.workspace import Workspace

    address = config.engine.address
    if config.engine.is_elsewhere:
        detail = f"jobs go to the job server at {address}; `motive doctor` on a node of that cluster looks at its workers"
        return Finding(status="warn", about="cluster", detail=detail)
    try:
        crew = Crew(Workspace(config))
        room, needs = crew.room(), told_needs(crew.needs())
    except MotiveError as error:
        return Finding(status="fail", about="cluster", detail=" ".join(str(error).split()))
    least = config.engine.workers.least
    detail = f"{address} has room for {room} workers of {needs}"
    if room < least:
        return Finding(status="fail", about="cluster", detail=f"{detail}; engine.workers.least asks for {least}")
    return Finding(status="ok", about="cluster", detail=detail)


def _disk(config: Config | None, model: _Model | None) -> Finding:
    """Whether the root can be written, and whether the checkpoints of all arms fit."""
    root = config.storage.root if config is not None else Path("motive_data").absolute()
    existing = next(folder for folder in (root, *root.parents) if folder.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        return Finding(status="fail", about="disk", detail=f"{existing} cannot be written. Set storage.root to a folder that can")
    free_gb = shutil.disk_usage(existing).free / GB
    need_gb = WANTED_FREE_GB if config is None or config.model.path != "tiny" else LEAST_FREE_GB
    what = f"{free_gb:.0f} GB free at {existing}"
    if config is not None and model is not None:
        trainings = sum(arm != "base" for arm in config.arms) * config.finetune.seeds
        need_gb += trainings * model.num_bytes / GB
        what += f"; the checkpoints of {trainings} trainings take {trainings * model.num_bytes / GB:.1f} GB"
    if free_gb < LEAST_FREE_GB:
        return Finding(status="fail", about="disk", detail=f"{what}. Free some space, or set storage.root")
    if free_gb < need_gb:
        return Finding(
            status="warn",
            about="disk",
            detail=f"{what}; about {need_gb:.0f} GB are wanted in all. Free some space, or set storage.root, fewer arms or finetune.seeds",
        )
    return Finding(status="ok", about="disk", detail=what)


def _object_storage(config: Config | None) -> Iterator[Finding]:
    """Whether each URL of the settings can be listed. The right to write is asked for by the first thing that a run does."""
    if config is None:
        return
    places = {
        "storage.root": config.storage.address,
        "clips.path": address_of(config.clips.path),
        "queries.path": address_of(config.queries.path),
        "queries.held_out_path": address_of(config.queries.held_out_path),
        "model.path": address_of(config.model.path),
    }
    for key, address in places.items():
        if address is None:
            continue
        try:
            first = next(Bucket(address).pages(), [])
        except MotiveError as error:
            yield Finding(status="fail", about=key, detail=str(error))
            continue
        if not first and key != "storage.root":
            yield Finding(status="fail", about=key, detail=f"{address}: there is nothing below this URL")
        else:
            yield Finding(status="ok", about=key, detail=f"{address} can be listed{'' if first else ' and is empty'}")
