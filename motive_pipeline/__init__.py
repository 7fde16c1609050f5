"""MOTIVE: motion attribution for video generation, as a plain library.

Nothing in this package imports Dagster; the code location lives in the sibling package ``assets``. The names below are the public interface
(docs/api.md). They are imported on first use, so ``import motive_pipeline`` loads neither torch nor pandas.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from motive_pipeline.api import Root, open_root
    from motive_pipeline.attribution.gradient import Feature, build_clip_gradient
    from motive_pipeline.config import Gradient, load_config
    from motive_pipeline.errors import MotiveError
    from motive_pipeline.models.grid import LatentGrid
    from motive_pipeline.models.protocol import VideoModel

__version__ = "0.1.0"

__all__ = [
    "Feature",
    "Gradient",
    "LatentGrid",
    "MotiveError",
    "Root",
    "VideoModel",
    "__version__",
    "build_clip_gradient",
    "load_config",
    "open_root",
]

_MODULES = {
    "Feature": "attribution.gradient",
    "Gradient": "config",
    "LatentGrid": "models.grid",
    "MotiveError": "errors",
    "Root": "api",
    "VideoModel": "models.protocol",
    "build_clip_gradient": "attribution.gradient",
    "load_config": "config",
    "open_root": "api",
}


def __getattr__(name: str) -> object:
    """A public name, imported from the module that defines it."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
