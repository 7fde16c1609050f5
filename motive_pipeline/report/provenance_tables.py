"""Tables on the origin of a report: rejected files, settings, and the versions of data, code and libraries."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd

from motive_pipeline.catalog.accounting import accounted, num_lost
from motive_pipeline.config import VariantArm
from motive_pipeline.evaluation.vbench.record import version_rows
from motive_pipeline.models.load import model_hash
from motive_pipeline.report.tables import Table
from motive_pipeline.storage.workspace import Workspace


def rejects_table(ws: Workspace) -> Table:
    """The number of rejected files of each stage by reason: clips, queries, and raters' result files."""
    assets = [*ws.graph.rejecting, *(["preference_study"] if ws.config.comparisons else [])]
    rejects = pd.concat([ws.published(asset).rejects() for asset in assets], ignore_index=True)
    counts = rejects.groupby(["stage", "reason"], sort=True).size()
    return Table(
        key="rejects",
        title="Left out",
        columns=["stage", "reason", "files"],
        rows=[[str(stage), str(reason), str(number)] for (stage, reason), number in counts.items()],  # type: ignore[misc]
        caption="Files that a stage could not use. The table “rejects” (motive sql) lists each one with the reason in a sentence.",
        words=frozenset({1}),
    )


def accounting(ws: Workspace) -> str:
    """What became of every file of the clips' source, in a sentence."""
    found = accounted(ws.published("clip_catalog"))
    parts = " + ".join(f"{number} {name}" for name, number in found.items() if name != "files")
    lost = f" These are {found['files'] - num_lost(found)}: files were lost." if num_lost(found) else ""
    return f"The clips' source: {found['files']} files = {parts}.{lost}"


def settings_table(ws: Workspace) -> Table:
    """The settings of :func:`plain_settings` as a table."""
    rows = [[name, _plain(value)] for name, value in plain_settings(ws).items()]
    return Table(key="settings", title="Settings", columns=["setting", "value"], rows=rows, caption="", words=frozenset({1}))


def plain_settings(ws: Workspace) -> dict[str, Any]:
    """Every setting that a stage depends on, by dotted key, without paths of this machine."""
    places = {"python", "weights", "timeout_s"} if ws.config.evaluate.backend == "vbench" else True
    hidden = {"storage": True, "schedule": True, "arms_": True, "lead_arm": True, "evaluate": {"vbench": places}}
    sections = ws.config.model_dump(mode="json", exclude=hidden, by_alias=True)
    settings = {f"{section}.{key}": value for section, values in sections.items() for key, value in values.items()}
    kept = {name: value for name, value in settings.items() if not name.endswith(("path", "table", "prompts")) or name == "model.path"}
    return kept | {
        "arms": ", ".join(map(_choice, ws.config.arms_)),
        "lead_arm": ws.config.lead_arm,
        "embedding.encoder": _without_folder(ws.config.embedding.encoder),
    }


def _choice(arm: str | VariantArm) -> str:
    """An arm, and how it chooses if it is one of the config's own."""
    return arm if isinstance(arm, str) else f"{arm.name} ({'; '.join(filter(None, (arm.variant, arm.rule, *arm.selection.in_words())))})"


def _without_folder(encoder: str) -> str:
    return Path(encoder).name if Path(encoder).is_absolute() else encoder


def _plain(value: Any) -> str:
    """The value as it is written in ``motive.yaml``."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def versions_table(ws: Workspace) -> Table:
    """The content hash of the model and of every asset, code versions and libraries."""
    rows = [["base model (weights)", model_hash(ws)[:16], ""]]
    ancestors = ws.graph.ancestors(["eval_report"])
    for asset in ws.graph.where(lambda asset: asset.key in ancestors):
        publication = ws.published(asset)
        rows.append([asset, publication.data_version[:16], str(publication.provenance["code_version"])])
    rows += version_rows(ws)
    libraries = ws.libraries()
    rows += [[name, str(version), ""] for name, version in libraries.items()]
    return Table(
        key="versions",
        title="Data, code and libraries",
        columns=["asset or library", "version", "code version of the stage"],
        rows=rows,
        caption="The version of an asset is a hash of its content.",
        words=frozenset({1}),
    )
