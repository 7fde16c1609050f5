"""``motive run --select``: every part of a selection means something, or the run stops and says which does not."""

import pytest

from assets.definitions import build_definitions
from assets.names import asset_name
from assets.selection import selected_assets
from motive_pipeline.errors import MotiveError
from motive_pipeline.graph import Graph
from tests.graph_project import SETTINGS, Project


@pytest.fixture(scope="module")
def chosen(tmp_path_factory):
    """The names that a selection chooses in a project without the arm ``random``."""
    arms = ["base", "full", "motion_magnitude", "no_mask", "motive"]
    config = Project(tmp_path_factory.mktemp("selection"), SETTINGS | {"arms": arms}).config
    graph = build_definitions(config).resolve_asset_graph()
    return lambda selection: {asset_name(key) for key in selected_assets(graph, Graph(config), selection)}


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        ("latents", {"latents"}),
        ('key:"voted_ranking/*"', {"voted_ranking/motive", "voted_ranking/no_mask"}),
        ('+key:"latents"', {"latents", "clip_catalog"}),
        ('key:"latents" or key:"motion_masks"', {"latents", "motion_masks"}),
        ('group:motion and not key:"query_masks"', {"motion_masks"}),
        ('key:"clip_files" or key:"latents"', {"latents"}),
        ('group:"attribution" and key:"influence_matrix/*"', {"influence_matrix/motive", "influence_matrix/no_mask"}),
        ("group:curation and not key:curated_subset/*", {"eligible_pool", "voted_ranking/motive", "voted_ranking/no_mask"}),
        ('group:"curation/voted_ranking"', {"voted_ranking/motive", "voted_ranking/no_mask"}),
    ],
)
def test_a_selection_of_names_that_there_are_chooses_them(chosen, selection, expected):
    assert chosen(selection) == expected


def test_what_is_not_named_by_not_is_everything_else(chosen):
    assert chosen("*") - chosen('not key:"latents"') == {"latents"}


TYPO = "there is no asset 'typo'"


@pytest.mark.parametrize(
    ("selection", "parts"),
    [
        ('key:"latents" or key:"typo"', [TYPO, "clip_catalog"]),
        ('not key:"typo"', [TYPO]),
        ('key:"latents" and not key:"typo"', [TYPO]),
        ('+key:"typo" or key:"latents"', [TYPO]),
        ("latent", ["'latent'", "Did you mean 'latents'?"]),
        ('key:"latents" or key:"curated_subset/random"', ["'curated_subset/random'", "curated_subset/full"]),
        ('key:"latents" or key:"x*"', ['key:"x*" matches nothing', "clip_catalog"]),
        ("group:motoin", ['group:"motoin"', "motion, training"]),
        ("kind:pyton or latents", ["not in Dagster's selection syntax", "for instance"]),
        ('(key:"latents" and key:"motion_masks") or key:"query_masks"', ['key:"latents" and key:"motion_masks" matches nothing']),
        ('key:"clip_files"', ["no asset that can be run"]),
        ("latents, motion_masks", ["not in Dagster's selection syntax", "for instance"]),
        ("", ["not in Dagster's selection syntax"]),
        ("status:failed", ['status:"failed"', "UI only", "key, group, kind, tag and owner"]),
        ("column:x", ['column:"x"', "UI only"]),
        ("job:curate", ['job:"curate"', "UI only"]),
    ],
)
def test_a_part_that_matches_nothing_is_named_and_stops_the_run(chosen, selection, parts):
    with pytest.raises(MotiveError) as error:
        chosen(selection)
    for part in (f"--select {selection!r}", *parts):
        assert part in str(error.value)


@pytest.mark.slow
def test_what_waits_for_an_asset_outside_the_selection_is_blocked_with_a_hint_how_to_select_all(tmp_path):
    outcome = Project(tmp_path).motive("run", "--json", "--select", "+curated_subset/motive")
    assert outcome.code == 1
    assert {run["status"] for run in outcome.assets.values()} == {"blocked"}
    assert "outside --select" in outcome.err
    assert """'+key:"curated_subset/motive"'""" in outcome.err
    assert "Traceback" not in outcome.err
