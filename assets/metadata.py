"""What Dagster shows of a publication: counts, facts, a preview picture, the report.

Belongs here: turning a publication into Dagster metadata, with untrusted text escaped. Does not belong here: which facts a stage publishes (the
library).
"""

import math
import shlex
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow.parquet as pq
from PIL import Image

from assets.markdown import cell, picture_url, table
from motive_pipeline.storage.workspace import Publication

MAX_PREVIEW_WIDTH_PX = 960  # the UI shows a picture in a dialog that is not wider than this on a laptop, and does not shrink it


LOOKED_AT = ("voted_ranking", "curated_subset", "rejected_clips", "preference_bundle", "eval_report")
"""Assets that the explorer shows."""


def metadata_of(publication: Publication, config_file: Path | None = None) -> dict[str, Any]:
    """Counts, facts, a preview picture, the folder of a publication, and the command that opens it in a browser, as Dagster metadata."""
    counts = publication.counts
    metadata: dict[str, Any] = {
        "dagster/row_count": counts.computed + counts.reused,
        "dagster/uri": str(publication.data_folder),
        "rows_computed": counts.computed,
        "rows_reused": counts.reused,
        "rows_rejected": counts.rejected,
        "published": dg.MetadataValue.path(str(publication.data_folder)),
    }
    metadata |= _column_schemas(publication.data_folder)
    metadata |= {name: _metadata_value(value) for name, value in publication.facts.items()}
    if publication.preview:
        picture = Image.open(publication.preview).convert("RGB")
        url = picture_url(picture, (MAX_PREVIEW_WIDTH_PX, 4 * MAX_PREVIEW_WIDTH_PX), quality=85)
        metadata["preview"] = dg.MetadataValue.md(f"![preview]({url})")
    if (publication.data_folder / "report.html").exists():
        metadata["report"] = dg.MetadataValue.md((publication.data_folder / "report.md").read_text(encoding="utf-8"))
        # no link: browsers refuse to follow one from a page to a local file
        metadata["report, with videos"] = dg.MetadataValue.path(str(publication.data_folder / "report.html"))
    if config_file is not None and publication.asset.split("/")[0] in LOOKED_AT:
        metadata["in a browser"] = dg.MetadataValue.md(f"`motive view --config {shlex.quote(str(config_file))}`")
    return metadata


def _column_schemas(folder: Path) -> dict[str, dg.TableSchemaMetadataValue]:
    """The columns of the published table, under the key that Dagster looks for; of several tables, each under a key of its own."""
    schemas = {file.stem: pq.read_schema(file) for file in sorted(folder.glob("*.parquet"))}
    found = {
        name: dg.MetadataValue.table_schema(dg.TableSchema([dg.TableColumn(field.name, str(field.type)) for field in schema]))
        for name, schema in schemas.items()
    }
    return {"dagster/column_schema" if len(found) == 1 else f"columns of {name}": schema for name, schema in found.items()}


def _metadata_value(value: Any) -> Any:
    """A fact of a publication: numbers (which the UI plots over time) and texts as they are, a list of dicts as a table, anything else as JSON."""
    if isinstance(value, list) and value and all(isinstance(row, dict) for row in value):
        columns = [str(name) for name in value[0]]
        return dg.MetadataValue.md(table(columns, ([cell(row.get(name, "")) for name in columns] for row in value)))
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, bool | int | float | str):
        return value
    return dg.MetadataValue.json(value)
