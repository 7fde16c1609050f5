"""``motive fetch vbench``: builds the environment, writes VBench's prompts to a file, and downloads the weights on request."""

from __future__ import annotations

from collections.abc import Iterator

from motive_pipeline.config import NON_COMMERCIAL, Config
from motive_pipeline.evaluation.vbench.child import Child
from motive_pipeline.evaluation.vbench.dimensions import DIMENSIONS
from motive_pipeline.evaluation.vbench.environment import build_environment, environment_folder, require_interpreter
from motive_pipeline.evaluation.vbench.weights import fetch_weights, needed_weights
from motive_pipeline.storage import atomic
from motive_pipeline.storage.digest import digest


def fetch_vbench(config: Config, *, with_weights: bool) -> Iterator[str]:
    """Fetch all parts and yield a message after each one. Existing parts are kept.

    Raises:
        MotiveError: pip or a download failed, or the environment does not run.
    """
    settings = config.evaluate.vbench
    dimensions = [DIMENSIONS[name] for name in settings.dimensions if settings.accept_noncommercial or name not in NON_COMMERCIAL]
    python = build_environment(settings) if settings.python is None else require_interpreter(settings)
    folder = settings.weights_folder
    child = Child(python=python, weights=folder, threads=config.engine.threads, timeout_s=settings.timeout_s)
    installed = child.installed("auto", [dimension.name for dimension in dimensions])
    yield f"vbench {installed.versions['vbench']}, torch {installed.versions['torch']}, on {installed.device}: {python}"
    prompts = list(dict.fromkeys(prompt for dimension in dimensions for prompt in installed.suite[dimension.name]))
    file = environment_folder().parent / f"prompts-{digest(prompts)[:8]}.txt"  # projects with other dimensions have another file
    atomic.write_bytes(file, ("\n".join(prompts) + "\n").encode())
    yield f"{len(prompts)} prompts, for generate.prompts with evaluate.vbench.suite: standard: {file}"
    weights = needed_weights(dimensions)
    if with_weights:
        yield f"{fetch_weights(weights, folder)} files of weights downloaded, {len(weights)} in total, in {folder}"
    else:
        missing = [weight for weight in weights if not (folder / weight.file).is_file()]
        size = sum(weight.megabytes for weight in missing)
        yield f"{len(missing)} of {len(weights)} files of weights are missing in {folder} ({size:.0f} MB); --weights downloads and checks them"
    left_out = [name for name in settings.dimensions if name not in {dimension.name for dimension in dimensions}]
    if left_out:
        terms = "; ".join(f"{name}: {DIMENSIONS[name].non_commercial}" for name in left_out)
        yield f"left out because evaluate.vbench.accept_noncommercial is false: {terms}"
    if config.evaluate.backend != "vbench":
        yield f"evaluate.backend is {config.evaluate.backend}; set it to vbench to measure with VBench in `motive run`"
