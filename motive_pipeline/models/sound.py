"""Whether a whole model can be trusted: its structure at each look, its classes and weights once for each content. The error names what is wrong.

A model that is not whole loads all the same: the libraries fill what is missing with random numbers. Importing this module imports neither torch
nor diffusers.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from motive_pipeline.errors import MotiveError
from motive_pipeline.models.whole import (
    Flaw,
    read_json,
    require_finite,
    require_vocabulary,
    stored_tensors,
    weight_files,
)
from motive_pipeline.progress import Progress
from motive_pipeline.storage import atomic
from motive_pipeline.storage.digest import digest
from motive_pipeline.storage.sealed import Damaged, read_sealed, write_sealed

log = logging.getLogger(__name__)

Hashes = Callable[[Sequence[Path]], list[list[str]]]
"""Gives (name, hash) of each file."""

CHECKS_VERSION = 2
"""Increase this when a check is added or changed: models that passed are then checked again."""

_SMALL = (".json", ".model", ".txt")
"""Suffixes of configs and vocabularies."""


@dataclass(frozen=True, kw_only=True)
class Component:
    """A component of a pipeline: its folder, and the library and class that ``model_index.json`` names for it. ``label`` names it in messages."""

    label: str
    folder: Path
    library: str
    class_name: str
    has_weights: bool

    @property
    def is_tokenizer(self) -> bool:
        """Whether it is a tokenizer, by diffusers' convention for names."""
        return self.folder.name.startswith("tokenizer")


def require_structure(components: Sequence[Component], what: str) -> None:
    """Check the files that the components consist of, without reading weights or importing a library. It takes milliseconds.

    Raises:
        MotiveError: a file is missing, cut, a Git LFS pointer or not readable; ``what`` names the model.
    """
    for component in components:
        with _flaws_named(component, what):
            if component.has_weights:
                read_json(component.folder / "config.json")
                stored_tensors(component.folder, component.library)
            elif component.is_tokenizer:
                require_vocabulary(component.folder)
            for file in sorted(component.folder.glob("*config.json")):
                read_json(file)


def require_fits(components: Sequence[Component], what: str) -> None:
    """Check that the weights are those that the classes need, and that tokenizers tell words apart. Imports torch, diffusers and transformers.

    Raises:
        MotiveError: a component lacks tensors, has others, or in other shapes; ``what`` names the model.
    """
    from motive_pipeline.models.fit import require_fit, require_words

    for component in components:
        with _flaws_named(component, what):
            if component.has_weights:
                tensors = stored_tensors(component.folder, component.library)
                require_fit(component.folder, component.library, component.class_name, tensors)
            elif component.is_tokenizer:
                require_words(component.folder, component.class_name, num_embeddings=_num_embeddings(component, components))


def _num_embeddings(tokenizer: Component, components: Sequence[Component]) -> int | None:
    """How many ids the text encoder of ``tokenizer`` knows (``text_encoder_2`` belongs to ``tokenizer_2``); None where its config does not say."""
    name = tokenizer.folder.name.replace("tokenizer", "text_encoder")
    encoders = [each.folder for each in components if each.folder.name == name and each.folder.parent == tokenizer.folder.parent]
    size = read_json(encoders[0] / "config.json").get("vocab_size") if encoders else None
    return size if isinstance(size, int) else None


def require_finite_weights(components: Sequence[Component], what: str) -> None:
    """Raise :class:`MotiveError` if a weight of the components is NaN or infinite. Reads all weights."""
    for component, file in _weight_files(components, what):
        with _flaws_named(component, what):
            require_finite(file)


def require_sound(components: Sequence[Component], what: str, hashes: Hashes, memory: Path) -> None:
    """:func:`require_fits`, then look at every weight for NaN and infinity. What passed is remembered in ``memory`` by its content.

    Raises:
        MotiveError: as :func:`require_fits`, or a weight is NaN or infinite.
    """
    fits = _fit_key(components, what, hashes)
    if fits not in remembered(memory):
        require_fits(components, what)
        remember(memory, {fits: True})
    require_finite_once(components, what, hashes, memory)


def require_finite_once(components: Sequence[Component], what: str, hashes: Hashes, memory: Path) -> None:
    """:func:`require_finite_weights` of the files whose content is not in ``memory`` yet."""
    passed = remembered(memory)
    weights = _weight_files(components, what)
    keys = [digest("finite", CHECKS_VERSION, entry) for entry in hashes([file for _, file in weights])]
    unseen = [(component, file, key) for (component, file), key in zip(weights, keys, strict=True) if key not in passed]
    progress = Progress(f"search for NaN in the weights of {what}", len(unseen), unit="files")
    for component, file, key in unseen:
        with _flaws_named(component, what):
            require_finite(file)
        remember(memory, {key: True})
        progress.step()


def remembered(memory: Path) -> dict[str, Any]:
    """What the file ``memory`` holds; empty if it is new or damaged, which only costs time."""
    try:
        return read_sealed(memory)
    except FileNotFoundError:
        return {}
    except Damaged as error:
        log.warning("%s; it only remembers what was read of the model, so the model's files are read again", error)
        return {}


def remember(memory: Path, found: Mapping[str, Any]) -> None:
    """Add ``found`` to what the file ``memory`` holds. Where it cannot be written, the next process looks again."""
    if atomic.is_writable(memory.parent):
        write_sealed(memory, remembered(memory) | dict(found))


def _fit_key(components: Sequence[Component], what: str, hashes: Hashes) -> str:
    """A hash of all that :func:`require_fits` looks at: configs, vocabularies, headers of weights, and the libraries' versions."""
    parts = []
    for component in components:
        small = sorted(file for file in component.folder.iterdir() if file.is_file() and file.suffix in _SMALL)
        with _flaws_named(component, what):
            tensors = stored_tensors(component.folder, component.library) if component.has_weights else {}
        headers = [[name, tensor.dtype, tensor.shape] for name, tensor in sorted(tensors.items())]
        parts.append([component.library, component.class_name, hashes(small), headers])
    return digest("fits", CHECKS_VERSION, version("diffusers"), version("transformers"), parts)


def _weight_files(components: Sequence[Component], what: str) -> list[tuple[Component, Path]]:
    found = []
    for component in components:
        if component.has_weights:
            with _flaws_named(component, what):
                found += [(component, file) for file in weight_files(component.folder, component.library)]
    return found


@contextmanager
def _flaws_named(component: Component, what: str) -> Iterator[None]:
    """Raise a flaw as the error that names model and component."""
    try:
        yield
    except Flaw as flaw:
        raise MotiveError(f"{what}: {component.label}: {flaw}") from flaw
