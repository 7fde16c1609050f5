"""A model on disk: its folder, its components, whether they are whole, and the hash of its content. Importing this imports no torch."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from motive_pipeline import config
from motive_pipeline.bucket.address import address_of
from motive_pipeline.config.timesteps import TimestepRange, expert_range
from motive_pipeline.errors import MotiveError
from motive_pipeline.graph import resolve_dotted
from motive_pipeline.graph.families import FAMILIES, ModelFamily
from motive_pipeline.models.adapter_file import adapter_file
from motive_pipeline.models.bucket_folder import model_from_bucket
from motive_pipeline.models.grid import LatentGrid
from motive_pipeline.models.hub import Named, resolve
from motive_pipeline.models.input_rules import InputRules, require_fitting_settings
from motive_pipeline.models.other_formats import refuse_other_formats
from motive_pipeline.models.sound import Component, remember, remembered, require_sound, require_structure
from motive_pipeline.models.tasks import Task, model_task
from motive_pipeline.models.whole import Flaw, read_json
from motive_pipeline.progress import Progress
from motive_pipeline.storage import atomic
from motive_pipeline.storage.digest import digest, digest_file
from motive_pipeline.storage.workspace import Workspace

TINY = Path(__file__).parent / "tiny"

YOUNG_S = 2.0
"""A file changed less than this ago may change again within the clock's resolution: its hash is not remembered."""


def model_folder(model: config.Model) -> Path:
    """The folder of the model ``model.path`` on this machine. A hub id is downloaded the first time.

    Raises:
        MotiveError: no such folder, not a known family of models, a component is missing or not whole, or the hub cannot be reached.
    """
    what = named(model)
    if model.path == "tiny":
        require_pipeline(TINY, what)
        return TINY
    if (address := address_of(model.path)) is not None:
        folder = model_from_bucket(address, model.cache)
        require_pipeline(folder, what)
        return folder
    refuse_other_formats(Path(model.path), what)
    return resolve(
        Named(
            key="model.path",
            name=model.path,
            revision=model.revision,
            allowed="a folder in diffusers' format, a hub id such as Wan-AI/Wan2.1-T2V-1.3B-Diffusers, or tiny",
            files=_hub_files(),
            require=lambda folder: require_pipeline(folder, what),
        )
    )


def named(model: config.Model) -> str:
    """The setting and its value, for messages."""
    return f"model.path = {model.path!r}"


def _hub_files() -> list[str]:
    """Patterns of the files that a model of any family needs; single-file weights in other formats stay on the hub."""
    weights = sorted({name for family in FAMILIES.values() for name in family.weights})
    return [
        "model_index.json",
        "scheduler/*",
        "tokenizer/*",
        "image_processor/*",
        *(f"{name}/{kind}" for name in weights for kind in ("*.json", "*.safetensors")),
    ]


def model_family(folder: Path, what: str) -> ModelFamily:
    """The family of the model at ``folder``, from its ``model_index.json``; ``what`` names the folder's origin in the message.

    Raises:
        MotiveError: there is no such file, or no family loads what it names.
    """
    index = folder / "model_index.json"
    if not index.is_file():
        raise MotiveError(f"{what}: {folder} has no model_index.json, so it is not a model in diffusers' format.")
    kind = _read_index(folder, what).get("_class_name")
    if kind not in FAMILIES:
        known = ", ".join(f"{family.label} ({family.pipeline})" for family in FAMILIES.values())
        raise MotiveError(f"{what}: {folder} holds a {kind}, which no family loads. There are: {known}.")
    return FAMILIES[kind]


def require_pipeline(folder: Path, what: str) -> None:
    """Raise :class:`MotiveError` unless ``folder`` holds a whole pipeline of a known family; ``what`` names the folder's origin in the message.

    Reads names, configs and headers, no weights.
    """
    parts = components(folder, what)
    for part in parts:
        if not any(part.folder.glob("*.json")):
            raise MotiveError(f"{what}: the component {part.folder.name} is missing from {folder}. Copy or download the model again.")
    require_structure(parts, what)


def components(folder: Path, what: str = "model.path") -> list[Component]:
    """The components that ``model_index.json`` says the pipeline has, in name order."""
    weights = model_family(folder, what).weights
    return [
        Component(label=f"the component {name}", folder=folder / name, library=value[0], class_name=value[1], has_weights=name in weights)
        for name, value in sorted(_read_index(folder, what).items())
        if isinstance(value, list) and value and value[0] is not None
    ]


def model_files(folder: Path) -> list[Path]:
    """Every file of the model, in name order: ``model_index.json`` and the files in its components' folders."""
    parts = [path for part in components(folder) for path in part.folder.rglob("*") if path.is_file() and not path.name.startswith(".")]
    return sorted([folder / "model_index.json", *parts])


def link_model(source: Path, target: Path, *, without: str | None = None) -> None:
    """Hard-link every file of the model at ``source`` (a copy across file systems) to the same place below ``target``, but those of the component ``without``."""
    for file in model_files(source):
        relative = file.relative_to(source)
        if relative.parts[0] != without:
            atomic.link_or_copy(file.resolve(), target / relative)


def latent_grid(ws: Workspace) -> LatentGrid:
    """The strides and channels of the model's latents, from config files alone."""
    return input_rules(ws.config.model).grid


def input_rules(model: config.Model) -> InputRules:
    """What the model takes, from the config files of its VAE and its transformer alone.

    Raises:
        MotiveError: as :func:`model_folder`, or the model is of a kind that its family does not support.
    """
    folder = model_folder(model)
    family = model_family(folder, named(model))
    model_task(model, family, folder, named(model))
    rules = resolve_dotted(family.rules)
    return rules(*(read_json(folder / name / "config.json") for name in ("vae", "transformer")))


def require_fitting(ws: Workspace) -> None:
    """Check the settings against what the model takes, before any clip is read.

    Raises:
        MotiveError: sides, frames or prompt tokens do not fit; or as :func:`input_rules`.
    """
    require_fitting_settings(input_rules(ws.config.model), ws.config, named(ws.config.model))


def task(model: config.Model) -> Task:
    """What the model does, by ``model.task`` and its files alone.

    Raises:
        MotiveError: as :func:`model_folder`, or the model cannot do it.
    """
    folder = model_folder(model)
    return model_task(model, model_family(folder, named(model)), folder, named(model))


def require_first_frames(ws: Workspace) -> None:
    """Check that every prompt of a model that starts from a first frame has one.

    Raises:
        MotiveError: prompts are read from a file; or as :func:`task`.
    """
    file = ws.config.generate.prompts
    if file is not None and task(ws.config.model) == "image_to_video":
        raise MotiveError(
            f"generate.prompts = {str(file)!r}, but the model ({named(ws.config.model)}) starts from a first frame, and a prompt in a file has none. "
            "Leave it out: each query's caption is a prompt, with the query's first frame."
        )


def model_hash(ws: Workspace) -> str:
    """32 hex digits over names and bytes of the model's files, and over the bytes of ``model.adapter``.

    The hash of each file is remembered in ``<state>/model_files.json`` by path, size, times, inode and links, and that its weights passed the
    checks in ``<state>/model_checks.json`` by content. So an unchanged model is read once.

    Raises:
        MotiveError: a component is not whole, does not fit its class, or holds NaN or infinity.
    """
    base = folder_hash(_sound_folder(ws), hash_memory(ws))
    if (adapter := ws.config.model.adapter) is None:
        return base
    file = adapter_file(adapter)
    [(_, content)] = file_hashes(file.parent, [file], hash_memory(ws).with_name("adapter_files.json"))
    return digest(base, content)


def encoders_hash(ws: Workspace) -> str:
    """32 hex digits over the part of the model that computes latents and prompt embeddings (the family's ``encoders``), and for image-to-video over what
    it is told of a first frame: models with equal encoders may be told different things.

    Raises:
        MotiveError: as :func:`model_hash`, and for the transformer, too: no clip is read for a model that cannot be used.
    """
    folder = _sound_folder(ws)
    encoders = part_hash(folder, hash_memory(ws), model_family(folder, "model.path").encoders)
    if task(ws.config.model) == "text_to_video":
        return encoders
    transformer = read_json(folder / "transformer" / "config.json")
    return digest(encoders, "image_to_video", [transformer.get(key) for key in ("in_channels", "image_dim")])


def _sound_folder(ws: Workspace) -> Path:
    """:func:`model_folder`, once its components fit their classes and all weights are finite."""
    folder, what = model_folder(ws.config.model), named(ws.config.model)
    require_sound(components(folder, what), what, partial(file_hashes, folder, memory=hash_memory(ws)), check_memory(ws))
    for variant in ws.config.variants:
        _require_timesteps(ws.config.of_variant(variant), variant)
    return folder


def timestep_range(model: config.Model) -> TimestepRange:
    """The timesteps that ``model.expert`` is used at, from ``model_index.json`` alone."""
    folder = model_folder(model)
    index = _read_index(folder, named(model))
    has_second = (index.get("transformer_2") or [None])[0] is not None
    return expert_range(is_second=model.expert == "transformer_2", boundary_ratio=index.get("boundary_ratio") if has_second else None)


def _require_timesteps(settings: config.Config, variant: str) -> None:
    """Raise MotiveError if the variant's gradients are taken at timesteps that its expert is never used at."""
    gradient, within = settings.gradient, timestep_range(settings.attributed_model)
    key, timesteps = (
        ("timestep", gradient.timesteps(within)) if gradient.draws is None else ("draw_timesteps", gradient.spread_timesteps(within))
    )
    if outside := [timestep for timestep in timesteps if timestep not in within]:
        raise MotiveError(
            f"gradient.{key} = {', '.join(f'{each:g}' for each in dict.fromkeys(outside))} (of the variant {variant}): the model uses its "
            f"{settings.attributed_model.expert} at timesteps from {within} alone (boundary_ratio in its model_index.json). Use "
            f"{'auto' if key == 'timestep' else 'stratified'}, timesteps in that range, or the other expert (gradient.expert)."
        )


def folder_hash(folder: Path, memory: Path) -> str:
    """:func:`model_hash` of the model at ``folder``, with the hashes of single files remembered in the JSON file ``memory``."""
    return digest(file_hashes(folder, model_files(folder), memory))


def part_hash(folder: Path, memory: Path, parts: Collection[str]) -> str:
    """The same over the files of the components ``parts`` and their entries in ``model_index.json``."""
    files = [file for file in model_files(folder) if file.relative_to(folder).parts[0] in parts]
    index = {name: value for name, value in _read_index(folder, "model.path").items() if name in parts}
    return digest(index, file_hashes(folder, files, memory))


def hash_memory(ws: Workspace) -> Path:
    """The file in which hashes of a model's files are remembered."""
    return ws.state / "model_files.json"


def check_memory(ws: Workspace) -> Path:
    """The file in which it is remembered what passed the checks of models/sound.py."""
    return ws.state / "model_checks.json"


def file_hashes(folder: Path, files: Sequence[Path], memory: Path) -> list[list[str]]:
    """(name within ``folder``, hash) of each file; those whose hash is remembered are not read."""
    known = remembered(memory)
    found: dict[str, list[Any]] = {}
    hashes = []
    progress = Progress(f"hash of the model in {folder}", len(files), unit="files")
    for file in files:
        name, stat = str(file.resolve()), file.stat()
        signature = [stat.st_size, stat.st_mtime_ns, stat.st_ino, stat.st_ctime_ns, stat.st_nlink]
        entry = known.get(name)
        sha = entry[1] if entry and _same_file(entry[0], signature) else digest_file(file)
        hashes.append([file.relative_to(folder).as_posix(), sha])
        progress.computed += 1
        progress.report()
        if time.time() - max(stat.st_mtime, stat.st_ctime) > YOUNG_S:
            found[name] = [signature, sha]
    if any(known.get(name) != entry for name, entry in found.items()):
        remember(memory, found)
    return hashes


def observe_base_model(ws: Workspace) -> tuple[str, dict[str, Any]]:
    """The base model's data version (its content hash) and figures for a person.

    Raises:
        MotiveError: the model cannot be used, or the settings do not fit it (:func:`require_fitting`, :func:`require_first_frames`).
    """
    require_fitting(ws)
    require_first_frames(ws)
    folder = model_folder(ws.config.model)
    return model_hash(ws), _facts(ws, folder, model_files(folder))


def observe_base_encoders(ws: Workspace) -> tuple[str, dict[str, Any]]:
    """The same for the part of the base model that encodes clips and captions."""
    require_fitting(ws)
    folder = model_folder(ws.config.model)
    encoders = model_family(folder, "model.path").encoders
    return encoders_hash(ws), _facts(ws, folder, [file for file in model_files(folder) if file.relative_to(folder).parts[0] in encoders])


def _facts(ws: Workspace, folder: Path, files: Sequence[Path]) -> dict[str, Any]:
    return {
        "model": ws.config.model.path,
        "folder": str(folder),
        "files": len(files),
        "megabytes": round(sum(file.stat().st_size for file in files) / 1e6, 1),
    }


def _same_file(known: list[int], now: list[int]) -> bool:
    """Whether a file is unchanged: (size, mtime, inode, ctime, links) are equal, or differ only as a new hard link makes them differ."""
    return known[:3] == now[:3] and (known[3] == now[3] or known[4] != now[4])


def _read_index(folder: Path, what: str) -> dict[str, Any]:
    try:
        return read_json(folder / "model_index.json")
    except Flaw as flaw:
        raise MotiveError(f"{what}: {flaw}") from flaw
