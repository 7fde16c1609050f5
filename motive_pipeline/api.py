"""Read what a pipeline has published: the ranking, the influence of a clip, any SQL query. Nothing here writes to the root."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import duckdb

from motive_pipeline.config import Clips, Config, Queries, Storage, load_config
from motive_pipeline.config.folders import require_usable_folders
from motive_pipeline.errors import MotiveError
from motive_pipeline.storage.workspace import Workspace

if TYPE_CHECKING:
    import pandas as pd

_RANKING = "SELECT r.*, c.path, c.caption FROM ranking r LEFT JOIN clips c USING (clip_id) ORDER BY rank"
_INFLUENCE = "SELECT i.*, q.path, q.caption, q.category FROM influence i LEFT JOIN queries q USING (query_id) ORDER BY query_id"


class Root:
    """One storage root, read-only. Every call reads the version that counts at that moment, also while a run is under way."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace

    def __repr__(self) -> str:
        return f"Root({str(self.folder)!r})"

    @property
    def folder(self) -> Path:
        """The folder that holds everything (``storage.root``)."""
        return self._workspace.root

    def ranking(self, variant: str = "motive") -> pd.DataFrame:
        """The clips of the eligible pool, best first: variant, clip_id, votes, mean_influence, rank (from 1), selected, path, caption.

        Raises:
            MotiveError: this variant has no ranking yet.
        """
        return self._rows(_RANKING, "a ranking", variant=variant)

    def influence(self, clip_id: str, variant: str = "motive") -> pd.DataFrame:
        """The influence of one clip on every query, one row a query: variant, query_id, clip_id, influence, rank, path, caption, category.

        ``influence`` is a cosine in [-1, 1], unless ``influence.similarity`` is ``dot``. ``rank`` is the clip's place among all clips for that query, from 1.
        ``path``, ``caption`` and ``category`` are the query's.

        Raises:
            MotiveError: there is no influence of this clip.
        """
        return self._rows(_INFLUENCE, "an influence", variant=variant, clip_id=clip_id)

    def sql(self, query: str) -> pd.DataFrame:
        """The result of one SELECT statement over the score tables; ``SHOW TABLES`` lists them.

        Raises:
            MotiveError: nothing was published yet, DuckDB does not accept the statement, or it fails.
        """
        return self._workspace.scores.read(query, lambda rows: rows.df())

    def path(self, asset: str) -> Path:
        """The folder of what ``asset`` (``projected_gradients/motive``) has published: a Zarr group, Parquet tables, a model.

        Raises:
            NotPublished: nothing yet.
        """
        return self._workspace.published(asset).path

    def _rows(self, query: str, what: str, **wanted: str) -> pd.DataFrame:
        """The rows of ``query`` whose columns equal ``wanted``. The values are bound, never part of the statement."""
        relation = self._workspace.scores.query(query)
        for column, value in wanted.items():
            relation = relation.filter(duckdb.ColumnExpression(column) == duckdb.ConstantExpression(value))
        found = relation.df()
        if found.empty:
            asked = ", ".join(f"{column} = {value!r}" for column, value in wanted.items())
            variants = ", ".join(self.sql("SELECT DISTINCT variant FROM ranking ORDER BY variant")["variant"])
            raise MotiveError(
                f"{self.folder} has no row of {what} with {asked}. The variants that have a ranking are: {variants or 'none yet'}"
            )
        return found


def open_root(where: str | Path | None = None) -> Root:
    """Open a root for reading. ``where`` is its folder, or the config file that names it; by default ``$MOTIVE_CONFIG``, else ``motive.yaml``.

    Raises:
        MotiveError: the folder is not a root, the config cannot be read, or a newer version of the software wrote the root.
    """
    if where is None or not Path(where).expanduser().is_dir():
        return Root(Workspace(load_config(where)))
    folder = Path(where).expanduser().absolute()
    if not (folder / "published").is_dir():
        raise MotiveError(f"{folder} is not a root: it has no folder `published`. Name the folder of `storage.root`, or the config file.")
    unused = {"clips": Clips(source="demo"), "queries": Queries(source="demo")}  # reading needs no more of a config than where the root is
    config = Config(storage=Storage(root=folder, state=folder / "state"), **unused)
    require_usable_folders(config)
    return Root(Workspace(config))
