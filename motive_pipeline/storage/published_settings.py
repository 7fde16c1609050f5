"""How the settings that published results were made with differ from the config's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from motive_pipeline.config import Config
from motive_pipeline.graph import STAGES
from motive_pipeline.storage.history import setting_text
from motive_pipeline.storage.workspace import Publication, Workspace

__all__ = ["changed_settings", "changes_since", "note_on_other_settings"]

MAX_NAMED = 3


def changed_settings(config: Config, publication: Publication) -> list[str]:
    """``["gradient.timestep 500 -> 751"]``: how the settings and the code differ from those the publication was made with."""
    return changes_since(config, publication.provenance)


def changes_since(config: Config, saved: Mapping[str, Any]) -> list[str]:
    """The same for a provenance record: stage, lane, settings, gates and code_version."""
    stage: str = saved["stage"]
    lane = saved.get("lane", "")
    now = config.stage_settings(stage, lane) | config.publish_settings(stage, lane)
    before = saved["settings"] | saved.get("gates", {})
    words = [text for key in now | before for text in _differences(key, before.get(key), now.get(key))]
    if saved["code_version"] != STAGES[stage].version:
        words.append(f"the code of {stage}, version {saved['code_version']} -> {STAGES[stage].version}")
    return words


def note_on_other_settings(workspace: Workspace) -> str | None:
    """What whoever reads published results must know if some were made with other settings than the config has; None if none were."""
    changed: dict[str, None] = {}
    num_assets = 0
    for key in workspace.graph.assets:
        publication = workspace.recorded(key)  # `motive sql` must not wait until a million rows are found to be there
        if publication is not None and publication.fingerprint != workspace.fingerprint(key):
            num_assets += 1
            changed |= dict.fromkeys(changed_settings(workspace.config, publication))
    if not num_assets:
        return None
    more = f" and {len(changed) - MAX_NAMED} more" if len(changed) > MAX_NAMED else ""
    return (
        f"{num_assets} of the published assets were made with other settings than {workspace.config.file} has ({'; '.join(list(changed)[:MAX_NAMED])}"
        f"{more}). What follows is of the published ones; `motive run` brings them up to date, `motive plan` lists them"
    )


def _differences(key: str, before: Any, now: Any) -> list[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        return [text for name in now | before for text in _differences(f"{key}.{name}", before.get(name), now.get(name))]
    return [] if before == now else [f"{key} {setting_text(before)} -> {setting_text(now)}"]
