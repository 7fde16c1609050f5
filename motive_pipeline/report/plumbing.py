"""What every page says of results that rest on the embedded tiny model and clips that it knows nothing of."""

from __future__ import annotations

from motive_pipeline.config import Config

NOTE = "Plumbing only: the model is the embedded tiny one, which knows nothing but generated discs, so influence on your clips means nothing. Set model.path."


def plumbing_notes(config: Config) -> list[str]:
    """The sentence that says so; empty for another model, and for the generated clips of the demo."""
    return [NOTE] if config.model.path == "tiny" and config.clips.source != "demo" else []
