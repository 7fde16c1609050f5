"""Arms with wishes in a real graph: what they choose, what they leave out, and what a change of one makes stale."""

import pytest

from assets.plan import plan
from assets.run_stale import run_stale
from motive_pipeline.graph import Graph
from tests.graph_project import Project

ARMS = [
    "motive",
    {"name": "unscored", "variant": "motive", "where": "motion_magnitude_px < 100 AND aesthetic_score IS NULL"},
    {"name": "varied", "variant": "motive", "quotas": {"sway": 0.5}, "max_near_duplicates": 1, "max_similarity": 0.5},
    {"name": "two_seconds", "variant": "motive", "rule": "mean_influence", "budget": {"seconds": 2.2}},
]


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Project:
    """A project whose subsets are published."""
    project = Project(tmp_path_factory.mktemp("selecting"))
    project.settings |= {"arms": ARMS, "lead_arm": "varied"}
    project.save()
    return project


def subsets(project: Project) -> list[str]:
    graph = Graph(project.config)
    return graph.with_ancestors(key for key, asset in graph.assets.items() if asset.name == "curated_subset")


def certain(project: Project) -> list[str]:
    return [asset.asset for asset in plan(project.config, subsets(project)) if asset.certain]


@pytest.mark.slow
def test_the_graph_chooses_by_the_wishes_and_makes_only_a_changed_arm_again(project):
    assert run_stale(project.config, subsets(project)).ok
    assert certain(project) == []
    ws = project.workspace
    chosen = {arm: ws.published(f"curated_subset/{arm}").table("subset")["clip_id"].tolist() for arm in project.config.arms}
    assert chosen["unscored"] == chosen["motive"], "every clip meets the condition"
    assert len(chosen["varied"]) <= len(chosen["motive"]) == 4
    assert ws.published("curated_subset/two_seconds").facts["used_frames"] == 2 * 17
    rows = project.sql("SELECT arm, reason, clip_id, other_id FROM left_out")
    assert {(row["arm"], row["reason"]) for row in rows} <= {("varied", "near_duplicate"), ("varied", "similar_gradient")}
    assert all(row["other_id"] in chosen["varied"] and row["clip_id"] not in chosen["varied"] for row in rows)
    ranked = project.motive("rank")
    assert ranked.code == 0, ranked.err
    assert f"{len(chosen['varied'])} clips chosen by the arm varied" in ranked.out

    best = chosen["unscored"][0]
    project.settings["arms"][1]["where"] = f"clip_id <> '{best}'"
    project.save()
    assert certain(project) == ["curated_subset/unscored"]
    assert run_stale(project.config, subsets(project)).ok
    assert certain(project) == []
    (row,) = project.sql("SELECT clip_id, rank, reason, detail FROM left_out WHERE arm = 'unscored'")
    assert (row["clip_id"], row["rank"], row["reason"]) == (best, 1, "where")
    changes = project.motive("diff", "previous", "latest")
    assert changes.code == 0, changes.err
    assert "unscored: 4 -> 4 clips; 1 entered, 1 left" in changes.out
    assert "where motion_magnitude_px < 100 AND aesthetic_score IS NULL -> clip_id <> " in changes.out


@pytest.mark.slow
def test_a_category_that_no_query_has_stops_before_any_work(tmp_path):
    project = Project(tmp_path)
    project.settings |= {"arms": ["motive", {"name": "own", "variant": "motive", "quotas": {"swai": 0.5}}]}
    project.save()
    report = run_stale(project.config, subsets(project))
    assert not report.ok
    assert not project.workspace.has_published("query_latents")
