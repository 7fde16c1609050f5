"""Which prompts are longer than the model reads. It needs the tokenizer alone, so no weights are loaded."""

from __future__ import annotations

import importlib
from collections.abc import Iterable

from motive_pipeline.graph import resolve_dotted
from motive_pipeline.models.folder import components, model_family, model_folder, named
from motive_pipeline.storage.workspace import Workspace

_BATCH = 1000
_EXTRA_TOKENS = 2
"""Tokens that a tokenizer adds to a prompt: one before it and one behind it."""


def cut_prompts(ws: Workspace, prompts: Iterable[str]) -> set[str]:
    """Those of ``prompts`` that have more than ``model.max_prompt_tokens`` tokens. The text encoder does not see what is behind the limit, so two
    of them that differ only there have equal embeddings. None where the model has no tokenizer.

    Raises:
        MotiveError: the model cannot be used.
    """
    limit = ws.config.model.max_prompt_tokens
    long = sorted({prompt for prompt in prompts if not _surely_fits(prompt, limit)})
    if not long:
        return set()
    folder, what = model_folder(ws.config.model), named(ws.config.model)
    clean = resolve_dotted(model_family(folder, what).clean_prompt)
    tokenizer = next((part for part in components(folder, what) if part.folder.name == "tokenizer"), None)
    if tokenizer is None:
        return set()
    tokenize = getattr(importlib.import_module(tokenizer.library), tokenizer.class_name).from_pretrained(
        tokenizer.folder, local_files_only=True
    )
    cut: set[str] = set()
    for first in range(0, len(long), _BATCH):
        batch = long[first : first + _BATCH]
        tokens = tokenize([clean(prompt) for prompt in batch], add_special_tokens=True, verbose=False)["input_ids"]
        cut.update(prompt for prompt, ids in zip(batch, tokens, strict=True) if len(ids) > limit)
    return cut


def _surely_fits(prompt: str, limit: int) -> bool:
    """Whether ``prompt`` fits whatever the tokenizer: a token has at least one letter. Elsewhere a letter may be several (bytes, an HTML entity)."""
    return prompt.isascii() and "&" not in prompt and len(prompt) + _EXTRA_TOKENS <= limit
