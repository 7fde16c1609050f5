"""``--select``: Dagster's selection syntax, every part of which must match something.

Belongs here: from the words of a selection to asset keys. Does not belong here: what runs of them (``run_stale.py``).
"""

import re
from collections.abc import Iterator

import dagster as dg

from assets.dagster_internals import AssetGraph, CheckError
from assets.names import asset_name, with_subgroups
from motive_pipeline.errors import MotiveError
from motive_pipeline.graph import Graph

EXAMPLES = """for instance key:"latents", '+key:"curated_subset/motive"' with all that it is made from, or 'group:curation and not key:"eligible_pool"'"""
_CHOOSERS = "key, group, kind, tag and owner"


def selected_assets(graph: AssetGraph, project: Graph, selection: str) -> set[dg.AssetKey]:
    """The materializable assets that ``selection`` names.

    Raises:
        MotiveError: it cannot be read, or a part of it (each side of ``or``, ``and`` and ``not``) matches nothing.
    """
    try:
        whole = dg.AssetSelection.from_string(with_subgroups(selection, project))
    except (dg.DagsterError, ValueError) as error:
        raise MotiveError(f"--select {selection!r} is not in Dagster's selection syntax; {EXAMPLES}") from error
    for part in _parts(whole):
        if not _matches(part, graph, project, selection):
            raise MotiveError(f"--select {selection!r}: {_nothing(part, project)}")
    chosen = set(whole.resolve(graph)) & set(graph.materializable_asset_keys)
    if not chosen:
        raise MotiveError(f"--select {selection!r} names no asset that can be run. {_names(project)}")
    return chosen


def _parts(selection: dg.AssetSelection) -> Iterator[dg.AssetSelection]:
    """Every part of a selection, the smallest first, and the selection itself last."""
    inner = [getattr(selection, name) for name in ("left", "right", "child") if hasattr(selection, name)]
    for each in (*inner, *getattr(selection, "operands", ())):
        yield from _parts(each)
    yield selection


def _matches(part: dg.AssetSelection, graph: AssetGraph, project: Graph, selection: str) -> bool:
    try:
        return bool(part.resolve(graph))
    except dg.DagsterInvalidSubsetError:  # a key without `key:` that is none
        return False
    except (NotImplementedError, CheckError) as error:
        raise MotiveError(
            f"--select {selection!r}: {part} can be answered in Dagster's UI only; here {_CHOOSERS} choose assets. `motive run` runs, of what is selected, "
            "just what is stale or failed last"
        ) from error


def _nothing(part: dg.AssetSelection, project: Graph) -> str:
    """What is wrong with a part that matches nothing."""
    words = str(part)
    if key := re.fullmatch(r'key:"([^"*]*)"', words):
        try:
            project.asset(key[1])
        except MotiveError as error:
            return str(error)
    if words.startswith("group:"):
        groups = sorted({asset.group for asset in project.assets.values()})
        return f"{words} matches nothing. The groups are: {', '.join(groups)}"
    return f"{words} matches nothing. {_names(project)}"


def _names(project: Graph) -> str:
    return f"There are: {', '.join(dict.fromkeys(asset.name for asset in project.assets.values()))}"


def hint_upstream(blocked: dg.AssetKey, blockers: list[str], selected: set[dg.AssetKey]) -> str:
    """How to select what ``blocked`` waits for, when the selection left it out; else nothing."""
    if set(blockers) <= {asset_name(key) for key in selected}:
        return ""
    return f", outside --select; '+key:\"{asset_name(blocked)}\"' takes all that it is made from, too (`+` before a bare name goes one step only)"
