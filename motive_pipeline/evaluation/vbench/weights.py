"""The weights of VBench's networks: which files are needed, checks of their hashes, and downloads on request."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

from motive_pipeline.errors import MotiveError
from motive_pipeline.evaluation.vbench.dimensions import Dimension, Weight
from motive_pipeline.fetch import download
from motive_pipeline.files.hash_memory import HashMemory
from motive_pipeline.storage.digest import digest_file

log = logging.getLogger(__name__)


def needed_weights(dimensions: Iterable[Dimension]) -> list[Weight]:
    """Every file that the dimensions need, without duplicates."""
    return list(dict.fromkeys(weight for dimension in dimensions for weight in dimension.weights))


def require_weights(dimensions: Sequence[Dimension], folder: Path, memory: HashMemory, *, accept_other: bool) -> dict[str, str]:
    """The SHA-256 of every file that the dimensions need, by its name relative to ``folder``.

    Raises:
        MotiveError: files are missing, or differ from the published ones (allowed with ``accept_other``); the message names all of them.
    """
    needed = needed_weights(dimensions)
    missing = [weight for weight in needed if not (folder / weight.file).is_file()]
    if missing:
        lines = [f"  {folder / weight.file}\n    from {weight.url} ({weight.megabytes:g} MB; {weight.licence})" for weight in missing]
        raise MotiveError(
            f"VBench's weights are not all in {folder} (evaluate.vbench.weights); missing:\n"
            + "\n".join(lines)
            + "\n`motive fetch vbench --weights` downloads and checks them, or put them there yourself."
        )
    found = {weight.file: memory.sha256(folder / weight.file)[0] for weight in needed}
    memory.save()
    others = [weight for weight in needed if found[weight.file] != weight.sha256]
    if others and not accept_other:
        lines = [f"  {folder / weight.file}: SHA-256 {found[weight.file]}, published {weight.sha256}" for weight in others]
        raise MotiveError(
            "these files are not the published weights of VBench's networks:\n"
            + "\n".join(lines)
            + "\nMove them away and run `motive fetch vbench --weights`. If you want to use these files, set evaluate.vbench.accept_other_weights: true "
            "(loading them can run code, so use only files that you trust)."
        )
    return found


def fetch_weights(weights: Sequence[Weight], folder: Path) -> int:
    """Download the missing files and check their published hashes; returns the number of downloaded files.

    Raises:
        MotiveError: no network, a download differs from the published file, or a different file exists already; that file is kept.
    """
    fetched = 0
    for weight in weights:
        target = folder / weight.file
        if target.exists():
            if digest_file(target) != weight.sha256:
                raise MotiveError(f"{target} exists, but is not the published file (SHA-256 {weight.sha256}). Move it away and try again.")
            continue
        log.info("%s: %g MB, %s, from %s", weight.file, weight.megabytes, weight.licence, weight.url)
        most = int(weight.megabytes * 1.1e6) + 2**20  # the sizes are rounded
        download(weight.url, target, sha256=weight.sha256, max_bytes=most, offline=f"put the file at {target} yourself")
        fetched += 1
    return fetched
