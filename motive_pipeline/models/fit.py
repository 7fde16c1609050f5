"""Whether a component's files are what its class needs by its config: every tensor in its shape, and a vocabulary that tells words apart.

The class is built on torch's meta device, so no weight is read. torch, diffusers and transformers are imported when a function is called.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from motive_pipeline.models.whole import STEMS, Flaw, StoredTensor, some

_COUNTED = ("I", "U", "BOOL")
"""How the types of tensors begin that hold no floats."""

_TRIED_WORDS = 1000


def require_fit(folder: Path, library: str, class_name: str, stored: Mapping[str, StoredTensor]) -> None:
    """Raise :class:`Flaw` unless ``stored`` are the tensors that ``class_name`` needs by ``folder``'s config.

    A tensor may be missing if one that it is tied to is there, or if the class ignores it. Components of other libraries are not known and pass.
    """
    if library not in STEMS:
        return
    model = _empty_model(folder, library, class_name)
    needed = model.state_dict()
    tied = _tied_groups(model)
    missing = [name for name in sorted(needed.keys() - stored.keys()) if not any(name in group and group & stored.keys() for group in tied)]
    missing = _not_ignored(missing, getattr(model, "_keys_to_ignore_on_load_missing", None))
    unexpected = _not_ignored(sorted(stored.keys() - needed.keys()), getattr(model, "_keys_to_ignore_on_load_unexpected", None))
    common = sorted(needed.keys() & stored.keys())
    shapes = [
        f"{name} is {list(stored[name].shape)} instead of {list(needed[name].shape)}"
        for name in common
        if stored[name].shape != tuple(needed[name].shape)
    ]
    quantised = [name for name in common if needed[name].is_floating_point() and stored[name].dtype.startswith(_COUNTED)]
    wrong = [
        f"{what} ({len(names)}): {some(names)}"
        for what, names in (
            ("missing tensors", missing),
            ("tensors that it does not have", unexpected),
            ("wrong shapes", shapes),
            ("integers instead of floats", quantised),
        )
        if names
    ]
    if wrong:
        raise Flaw(
            f"the weights in {folder} are not those of a {class_name} with this config.json. {'; '.join(wrong)}. "
            "Copy or download the component again, with the config.json that belongs to it."
        )


def require_words(folder: Path, class_name: str, *, num_embeddings: int | None) -> None:
    """Raise :class:`Flaw` unless the tokenizer in ``folder`` loads and gives different ids to different words. ``num_embeddings`` is how many ids its text
    encoder knows, if that is known."""
    import transformers

    try:
        tokenizer = _class("transformers", class_name).from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise Flaw(
            f"transformers {transformers.__version__} cannot load the {class_name} in {folder} ({_first_line(error)}). "
            "Copy or download its vocabulary again; a tokenizer.json needs no further library."
        ) from error
    vocabulary = tokenizer.get_vocab()
    largest = max(vocabulary.values(), default=0)
    if num_embeddings is not None and largest >= num_embeddings:
        raise Flaw(
            f"the {class_name} in {folder} has ids up to {largest}, and its text encoder knows {num_embeddings} ids: they do not belong together. "
            "Copy or download both from the same model."
        )
    words = (token.lstrip("▁Ġ") for token in vocabulary)
    ids = {tuple(tokenizer(word).input_ids) for word in islice((word for word in words if word.isalpha()), _TRIED_WORDS)}
    if len(ids) < 2:
        raise Flaw(f"the {class_name} in {folder} gives the same ids to all words: its vocabulary is missing. Copy or download it again.")


def _empty_model(folder: Path, library: str, class_name: str) -> Any:
    """The component by its config, without memory for its weights."""
    import torch
    from huggingface_hub.errors import StrictDataclassError

    kind = _class(library, class_name)
    try:
        with torch.device("meta"):
            return kind.from_config(kind.load_config(folder)) if library == "diffusers" else kind(kind.config_class.from_pretrained(folder))
    except (TypeError, ValueError, KeyError, StrictDataclassError) as error:
        raise Flaw(f"{folder / 'config.json'} describes no {class_name} ({_first_line(error)}). Copy or download it again.") from error


def _class(library: str, class_name: str) -> Any:
    import diffusers
    import transformers

    module = {"diffusers": diffusers, "transformers": transformers}[library]
    kind = getattr(module, class_name, None)
    if kind is None:
        raise Flaw(f"{library} {module.__version__} has no class {class_name}. Install the version that the model was made for.")
    return kind


def _tied_groups(model: Any) -> list[set[str]]:
    """Names of tensors that are one and the same: one of them in the file is enough."""
    groups: dict[str, set[str]] = {}
    for target, source in getattr(model, "all_tied_weights_keys", {}).items():
        groups.setdefault(source, {source}).add(target)
    return list(groups.values())


def _not_ignored(names: list[str], patterns: Iterable[str] | None) -> list[str]:
    return [name for name in names if not any(re.search(pattern, name) for pattern in patterns or ())]


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
