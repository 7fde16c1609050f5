"""The weights of VBench's networks: which are needed, whether the right ones are there, and fetching them when asked."""

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
    """Every file that the dimensions need, once."""
    return list(dict.fromkeys(weight for dimension in dimensions for weight in dimension.weights))


def require_weights(dimensions: Sequence[Dimension], folder: Path, memory: HashMemory, *, accept_other: bool) -> dict[str, str]:
    """The SHA-256 of every file that the dimensions need, by its name below ``folder``.

    Raises:
        MotiveError: files are missing, or are not the published ones (with ``accept_other`` they may be others); all of them are named.
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
            "these files are not the weights that VBench's numbers are made with:\n"
            + "\n".join(lines)
            + "\nMove them away and run `motive fetch vbench --weights`, or, if they are meant, set evaluate.vbench.accept_other_weights: true "
            "(they can run code when they are loaded: take them from nobody that you do not trust)."
        )
    return found


def fetch_weights(weights: Sequence[Weight], folder: Path) -> int:
    """Download what is not there, checked against its published hash; gives how many files came.

    Raises:
        MotiveError: no network, another file than the published one came, or one lies there already; that one stays as it is.
    """
    fetched = 0
    for weight in weights:
        target = folder / weight.file
        if target.exists():
            if digest_file(target) != weight.sha256:
                raise MotiveError(
                    f"{target} is there, but is not the published file (SHA-256 {weight.sha256}). Move it away and try again."
                )
            continue
        log.info("%s: %g MB, %s, from %s", weight.file, weight.megabytes, weight.licence, weight.url)
        download(weight.url, target, sha256=weight.sha256, offline=f"put the file at {target} yourself")
        fetched += 1
    return fetched
