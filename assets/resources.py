"""What asset bodies share: the workspace under the root's lock, and a publication shown as Dagster metadata."""

import base64
import importlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
from PIL import Image

from assets.automation import recompute_what_changed
from motive_pipeline.config import Config
from motive_pipeline.errors import MotiveError
from motive_pipeline.stages import STAGES
from motive_pipeline.storage.layout import mark_layout
from motive_pipeline.storage.trouble import storage_trouble
from motive_pipeline.storage.workspace import Publication, Workspace

OWNERS = ["team:curation"]
WAIT_FOR_ROOT_S = 12 * 3600.0
MAX_PREVIEW_WIDTH_PX = 960  # the UI shows a picture in a dialog that is not wider than this on a laptop, and does not shrink it


def workspace_resource(workspace: Workspace) -> dg.ResourceDefinition:
    """The workspace, with the root's lock held from the start of a run to its end."""

    @dg.resource(
        description=f"The project below {workspace.root}; holding it means holding the root's lock.", required_resource_keys={"alive"}
    )
    def locked_workspace(context: dg.InitResourceContext) -> Iterator[Workspace]:
        assert context.run is not None
        workspace.lock.acquire(wait_s=WAIT_FOR_ROOT_S, who=f"Dagster run {context.run.run_id[:8]}")
        try:
            mark_layout(workspace.root)
            yield workspace
        finally:
            workspace.lock.release()

    return locked_workspace


def stage_asset(
    config: Config,
    key: str,
    *,
    stage: str,
    group: str,
    kinds: set[str],
    deps: list[str],
    description: str,
    publish: str,
    auto: bool = True,
    **arguments: Any,
) -> dg.AssetsDefinition:
    """An asset that runs one stage of the library and shows what it published.

    ``key`` and ``deps`` are written ``asset`` or ``asset/arm``. ``publish`` is ``module:function`` below ``motive_pipeline``, called with the
    workspace and ``arguments``; it is imported when the asset runs, so that loading the code location stays cheap. ``auto`` says
    whether automation may run the asset. What a user can mend fails the asset with the library's own message.
    """
    assert stage in STAGES
    name, *lane = key.split("/")
    if lane:
        kinds = kinds | {name}  # a node of the lineage is titled with the last part of its key only; its kinds stand below the title

    @dg.asset(
        key=dg.AssetKey(key.split("/")),
        group_name=group,
        kinds=kinds,
        owners=OWNERS,
        deps=[dg.AssetKey(dep.split("/")) for dep in deps],
        description=description,
        code_version=config.fingerprint(stage),
        automation_condition=recompute_what_changed() if auto else None,
        required_resource_keys={"workspace"},
    )
    def asset(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        module, function = publish.split(":")
        run = getattr(importlib.import_module(f"motive_pipeline.{module}"), function)
        try:
            publication: Publication = run(context.resources.workspace, **arguments)
        except MotiveError as error:
            raise dg.Failure(description=str(error), allow_retries=False) from error
        except Exception as error:
            workspace: Workspace = context.resources.workspace
            if (trouble := storage_trouble(error, workspace.root, workspace.state)) is None:
                raise
            raise dg.Failure(description=trouble, allow_retries=False) from error
        return dg.MaterializeResult(metadata=metadata_of(publication), data_version=dg.DataVersion(publication.data_version))

    return asset


def clips_and_queries(config: Config, assets: dict[str, str], **stage: Any) -> list[dg.AssetsDefinition]:
    """The two assets of a stage that computes one row for each clip: ``assets`` gives the clips' and the queries' key and description.

    ``stage`` is what :func:`stage_asset` takes.
    """
    roles = (("clip", "clip_catalog"), ("query", "query_catalog"))
    return [
        stage_asset(config, key, deps=[catalog, "base_encoders"], description=description, role=role, **stage)
        for (role, catalog), (key, description) in zip(roles, assets.items(), strict=True)
    ]


def metadata_of(publication: Publication) -> dict[str, Any]:
    """Counts, facts, a preview picture and the folder of a publication, as Dagster metadata."""
    counts = publication.counts
    metadata: dict[str, Any] = {
        "rows_computed": counts.computed,
        "rows_reused": counts.reused,
        "rows_rejected": counts.rejected,
        "published": dg.MetadataValue.path(str(publication.data_folder)),
    }
    metadata.update({name: _metadata_value(value) for name, value in publication.facts.items()})
    if publication.preview:
        metadata["preview"] = dg.MetadataValue.md(f"![preview]({_data_url(publication.preview)})")
    if (publication.data_folder / "report.html").exists():
        metadata["report"] = dg.MetadataValue.md((publication.data_folder / "report.md").read_text(encoding="utf-8"))
        # no link: browsers refuse to follow one from a page to a local file
        metadata["report, with videos"] = dg.MetadataValue.path(str(publication.data_folder / "report.html"))
    return metadata


def _data_url(file: Path) -> str:
    """A picture small enough for the event log, which keeps it for every materialization."""
    picture = Image.open(file).convert("RGB")
    picture.thumbnail((MAX_PREVIEW_WIDTH_PX, 4 * MAX_PREVIEW_WIDTH_PX), Image.Resampling.LANCZOS)
    encoded = io.BytesIO()
    picture.save(encoded, "WEBP", quality=85)
    return f"data:image/webp;base64,{base64.b64encode(encoded.getvalue()).decode()}"


def _metadata_value(value: Any) -> Any:
    """A fact of a publication: numbers and texts as they are, a list of dicts as a table, anything else as JSON."""
    if isinstance(value, list) and value and all(isinstance(row, dict) for row in value):
        columns = [str(name) for name in value[0]]
        lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
        lines += ["| " + " | ".join(_cell(row.get(name, "")) for name in columns) + " |" for row in value]
        return dg.MetadataValue.md("\n".join(lines))
    if isinstance(value, bool | int | float | str):
        return value
    return dg.MetadataValue.json(value)


def _cell(value: Any) -> str:
    """One table cell: captions and file names are untrusted, so nothing in them may act as markup."""
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    for char, escaped in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("|", "\\|"), ("\n", " "), ("`", "'"), ("[", "\\["), ("!", "\\!")):
        text = text.replace(char, escaped)
    return text
