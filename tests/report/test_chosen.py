"""A lead arm with wishes: every page and list speaks of its clips, and says why others were left out."""

import json

import pytest

from motive_pipeline.commands.ranking import Goal, goal_of, result_lines
from motive_pipeline.curation.arms import publish_subset
from motive_pipeline.evaluation.stage import publish_eval_scores
from motive_pipeline.export.subset import export_subset
from motive_pipeline.graph import Graph
from motive_pipeline.report.chosen import chosen_by_lead, left_out_sentences
from motive_pipeline.report.explain_page import write_explanation
from motive_pipeline.report.gallery import Gallery
from motive_pipeline.report.harmful_section import load_harmful_section
from motive_pipeline.report.provenance_tables import plain_settings
from motive_pipeline.report.stage import publish_report
from motive_pipeline.report.summary import best_clips
from tests.eval_fixtures import copied, republish, with_harmful_clips, with_settings
from tests.view.explorer_fixtures import Explorer


@pytest.fixture(scope="module")
def ranked(evaluated) -> list[str]:
    """The clips as the lead variant ranks them."""
    return evaluated.published("voted_ranking/motive").table("ranking")["clip_id"].tolist()


@pytest.fixture(scope="module")
def ws(evaluated, ranked, tmp_path_factory, tiny_model):
    """The project with a lead arm that takes the ranking without its first clip."""
    own = {"name": "own", "variant": "motive", "where": f"clip_id <> '{ranked[0]}'"}
    ws = copied(evaluated, tmp_path_factory.mktemp("wishes"), tiny_model)
    ws = with_settings(ws, arms=[*evaluated.config.arms, own], lead_arm="own")
    ranking = ws.published("voted_ranking/motive").table("ranking")
    republish(
        ws, "voted_ranking/motive", ranking=ranking.assign(votes=ranking["votes"] + 1)
    )  # a list of the best has only clips with a vote
    publish_subset(ws, "own")
    return ws


def test_the_chosen_clips_are_the_lead_arms(ws, ranked):
    assert chosen_by_lead(ws, "motive") == set(ranked[1:4])
    of_another = ws.published("voted_ranking/no_mask").table("ranking")["clip_id"].tolist()
    assert chosen_by_lead(ws, "no_mask") == set(of_another[:3]), "of another variant what its ranking selects"
    gallery = Gallery(ws, None)
    assert [gallery.clip(clip_id, []).is_chosen for clip_id in ranked[:5]] == [False, True, True, True, False]


def test_the_best_clips_are_the_first_of_the_lead_arm(ws, evaluated, ranked):
    catalog = ws.published("clip_catalog").table("catalog").set_index("clip_id")["path"]
    shown, plain = best_clips(ws, 10), best_clips(evaluated, 10)
    assert plain[0]["file"] == catalog[ranked[0]]
    assert [(clip["rank"], clip["file"]) for clip in shown] == [(rank, catalog[ranked[rank]]) for rank in range(1, len(shown) + 1)]
    assert len(shown) == 3


def test_the_explanation_says_which_wish_left_a_clip_out(ws, evaluated, ranked, tmp_path):
    condition = f"clip_id != '{ranked[0]}'"  # as DuckDB writes it
    _, text = write_explanation(ws, ranked[0], file=tmp_path / "page.html", compute_maps=False)
    assert "Not chosen by own. The first clips of the variant motive, by its ranking; where clip_id" in text
    assert "In the ranking that the arm chooses from: rank 1 of 9" in text
    assert f"Left out by own (where): {condition} is false." in text
    assert 'class="verdict"' in (tmp_path / "page.html").read_text()
    _, text = write_explanation(ws, ranked[1], file=tmp_path / "page.html", compute_maps=False)
    assert "Chosen by own." in text
    assert "Left out" not in text
    assert left_out_sentences(ws, ranked[1]) == left_out_sentences(evaluated, ranked[0]) == []


def test_of_harmful_clips_those_count_that_the_lead_arm_chose(ws, tmp_path, tiny_model):
    other = with_settings(copied(ws, tmp_path, tiny_model), arms=ws.config.model_dump(by_alias=True)["arms"], lead_arm="own")
    with_harmful_clips(other, 3)
    sentences = load_harmful_section(other, Gallery(other, None)).sentences
    ranking = other.published("voted_ranking/motive").table("ranking").sort_values("mean_influence")
    both = set(ranking["clip_id"][:3]) & chosen_by_lead(other, "motive")
    assert any("chosen by own all the same" in sentence for sentence in sentences) == bool(both)


def test_rank_makes_the_lead_arm_and_shows_its_clips(ws, ranked):
    goal = goal_of(ws.config, arm=None, variant=None)
    assert goal == Goal(variant="motive", arm="own")
    assert goal_of(ws.config, arm=None, variant="motive").arm == "motive", "the arm that takes the ranking as it is"
    catalog = ws.published("clip_catalog").table("catalog").set_index("clip_id")["path"]
    lines = result_lines(ws, goal)
    assert [line.split()[-1] for line in lines[1:4]] == [catalog[clip_id] for clip_id in ranked[1:4]]
    assert "3 clips chosen by the arm own" in "\n".join(lines)


def test_settings_and_page_say_what_the_arm_selects_by(ws):
    words = ws.config.arm("own").selection.in_words()
    assert f"own (motive; {words[0]})" in plain_settings(ws)["arms"]
    assert Explorer(ws).meta["selecting"] == {"own": words}


def test_the_export_has_the_clips_of_the_arm(ws, ranked, tmp_path):
    result = export_subset(ws, "own", tmp_path / "out", "finetrainers")
    assert result.num_clips == 3
    manifest = json.loads((tmp_path / "out" / "motive" / "MANIFEST.json").read_text())
    assert [clip["clip_id"] for clip in manifest["clips"]] == ranked[1:4]


@pytest.mark.slow
def test_the_report_speaks_of_the_lead_arm_and_of_other_sizes(ws, evaluated, tmp_path, tiny_model):
    arms = [*evaluated.config.arms, {"name": "own", "variant": "motive", "budget": {"frames": 34}}]
    ws = with_settings(copied(evaluated, tmp_path, tiny_model), arms=arms, lead_arm="own")
    for asset in Graph(ws.config).assets.values():
        if asset.lane == "own" and asset.name != "eval_scores":
            asset.publish(ws)
    publish_eval_scores(ws, "own")
    ws.graph.asset("preference_bundle").publish(ws)
    ws.graph.asset("preference_study").publish(ws)
    ws.graph.asset("attribution_audit").publish(ws)
    page = (publish_report(ws).path / "report.html").read_text(encoding="utf-8")
    assert "Only the training clips differ: 2 for each arm, but “random” on 3, " in page
    assert "own selects from that order: at most 34 frames." in page
    assert "own: The first clips of the variant motive, by its ranking; at most 34 frames." in page
