"""Arms with wishes: conditions, weights and quotas by category, limits on what is alike, budgets, and the table of what they left out."""

import logging
import shutil

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from motive_pipeline.config import parse_config
from motive_pipeline.config.conditions import COLUMNS
from motive_pipeline.curation.arms import publish_subset
from motive_pipeline.curation.vote import majority_vote, order_by
from motive_pipeline.errors import ConfigError, GateFailed, MotiveError
from motive_pipeline.graph import Graph
from motive_pipeline.storage.tables import TABLES
from motive_pipeline.storage.workspace import Workspace
from tests.curation_fixtures import clip_names, publish_gradients, publish_influence_matrix, publish_table, unit_rows

NUM = 40
NAMES = clip_names(NUM)
QUERIES = clip_names(5, start=900)
CATEGORIES = np.array(["slide", "slide", "spin", "spin", "fall"])
INFLUENCE = np.random.default_rng(3).normal(size=(5, NUM)).astype(np.float32)
VOTE = majority_vote([INFLUENCE], 70.0)
ORDER = order_by("vote", VOTE.votes_N, VOTE.mean_influence_N)
FRAMES = np.array([17 if n % 3 else 9 for n in range(NUM)])
SCORES = np.array([np.nan if n % 10 == 0 else n / 5 for n in range(NUM)])
MAGNITUDE_PX = np.arange(NUM, dtype=float)
BASE = """clips: {source: demo, fps: 16}
queries: {source: demo}
vote: {percentile: 70}
subset: {share: 0.25}
influence: {proj_dim: 8}
gradient: {store_dim: 16}
"""


def gradients() -> np.ndarray:
    """Random rows, of which the second and the fourth clip in rank are almost those of the first."""
    rows = unit_rows(NUM, 16)
    rows[ORDER[[1, 3]]] = rows[ORDER[0]] + 1e-3 * rows[ORDER[[1, 3]]]
    return rows


GRADIENTS = gradients()
ALIKE = ORDER[[0, 2, 5]]
"""Clips that look alike: the hash of the second is 8 bits from both others', which are 16 apart, too far for a pair."""
OF_ONE_FILE = ORDER[[1, 2, 4]]


def hashes() -> list[str]:
    random = np.random.default_rng(4).bytes(32 * NUM).hex()
    found = [random[64 * n : 64 * n + 64] for n in range(NUM)]
    for number, clip in enumerate(ALIKE):
        found[clip] = "0" * 60 + ("0000", "00ff", "ffff")[number]
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A project with everything published that an arm may need."""
    folder = tmp_path_factory.mktemp("selection")
    ws = Workspace(parse_config(BASE + "arms: [motive]\n", folder / "motive.yaml"))
    paths = np.array([f"/clips/{name}.mp4" for name in NAMES], dtype=object)
    paths[OF_ONE_FILE] = [f"/clips/long.mp4#t={n},{n + 1}" for n in range(3)]
    catalog = pd.DataFrame(
        {"clip_id": NAMES, "path": paths, "caption": [f"clip {name[-2:]}" for name in NAMES], "aesthetic_score": SCORES, "flags": ""}
    )
    publish_table(ws, "clip_catalog", "catalog", catalog)
    publish_table(ws, "latents", "index", {"clip_id": NAMES, "num_frames": FRAMES, "phash": hashes()})
    motion = pd.DataFrame({"clip_id": NAMES, "motion_magnitude_px": MAGNITUDE_PX})
    publish_table(ws, "motion_masks", "index", motion)
    publish_table(ws, "eligible_pool", "pool", {"clip_id": NAMES})
    publish_table(ws, "query_catalog", "queries", {"query_id": QUERIES, "category": CATEGORIES, "role": ["query"] * 5})
    publish_influence_matrix(ws, "motive", QUERIES, NAMES, INFLUENCE)
    publish_gradients(ws, "projected_gradients/motive", NAMES, GRADIENTS)
    ranking = {
        "clip_id": [NAMES[n] for n in ORDER],
        "votes": VOTE.votes_N[ORDER],
        "mean_influence": VOTE.mean_influence_N[ORDER],
        "rank": np.arange(1, NUM + 1),
        "selected": np.arange(NUM) < 10,
    }
    publish_table(ws, "voted_ranking/motive", "ranking", ranking)
    ws.scores.publish({("catalog", "catalog"): catalog.reindex(columns=TABLES["catalog"].names), ("motion", "motion"): motion})
    return folder


def open_with(folder, wishes: str, more: str = "") -> Workspace:
    """The project with an arm ``own`` that has ``wishes``."""
    return Workspace(parse_config(BASE + f"arms: [motive, {{name: own, variant: motive, {wishes}}}]\n{more}", folder / "motive.yaml"))


def chosen(ws: Workspace) -> list[int]:
    """The clips that the arm chooses, as their numbers."""
    subset = publish_subset(ws, "own").table("subset")
    assert subset["rank"].tolist() == list(range(1, len(subset) + 1))
    return [NAMES.index(clip_id) for clip_id in subset["clip_id"]]


def left_out(ws: Workspace) -> pd.DataFrame:
    """The view ``left_out``, with numbers for ids."""
    table = ws.scores.query("SELECT * EXCLUDE (arm) FROM left_out WHERE arm = 'own' ORDER BY rank").df()
    numbers = {name: [None if pd.isna(clip) else NAMES.index(clip) for clip in table[name]] for name in ("clip_id", "other_id")}
    return table.assign(**{name: pd.Series(values, dtype=object) for name, values in numbers.items()})


def test_without_wishes_an_arm_is_what_it_was(folder):
    ws = open_with(folder, "rule: vote")
    assert chosen(ws) == ORDER[:10].tolist()
    assert not ws.config.arm("own").selection
    assert left_out(ws).empty


def test_only_clips_that_meet_the_condition_are_chosen_and_the_others_say_why(folder, caplog):
    ws = open_with(folder, "where: 'aesthetic_score >= 2 AND (motion_magnitude_px < 35 OR votes > 3)'")
    with caplog.at_level(logging.INFO, "motive_pipeline"):
        found = chosen(ws)
    passes = (SCORES >= 2) & ((MAGNITUDE_PX < 35) | (VOTE.votes_N > 3))
    assert found == [n for n in ORDER if passes[n]][:10]
    table = left_out(ws)
    rank = {clip: place for place, clip in enumerate(ORDER, start=1)}
    assert dict(zip(table["clip_id"], table["rank"], strict=True)) == {n: rank[n] for n in range(NUM) if not passes[n]}
    assert set(table["reason"]) == {"where"}
    details = dict(zip(table["clip_id"], table["detail"], strict=True))
    assert details[10] == "aesthetic_score >= 2 is NULL: a value is missing"
    assert details[3] == "aesthetic_score >= 2 is false"
    facts = ws.published("curated_subset/own").facts
    second = "(motion_magnitude_px < 35) OR (votes > 3)"
    assert facts["clips that meet the condition"] == passes.sum()
    assert facts["conditions"] == [
        {"condition": "aesthetic_score >= 2", "false": int((SCORES < 2).sum()), "no value": 4},
        {"condition": second, "false": int(((MAGNITUDE_PX >= 35) & (VOTE.votes_N <= 3)).sum()), "no value": 0},
    ]
    assert "aesthetic_score >= 2: false for 9, no value for 4" in caplog.text


def test_a_condition_may_use_every_column_of_a_clip(folder):
    ws = open_with(folder, "where: votes >= 0")
    view = set(ws.scores.query("DESCRIBE clips").df()["column_name"])
    assert view | {"votes", "mean_influence"} == set(COLUMNS)
    typed = dict(zip(*(ws.scores.query("DESCRIBE clips").df()[name] for name in ("column_name", "column_type")), strict=True))
    assert {name: COLUMNS[name] for name in typed} == typed
    every = " AND ".join(f"({name} IS NULL OR {name} IS NOT NULL)" for name in COLUMNS)
    assert chosen(open_with(folder, f"where: '{every}'")) == ORDER[:10].tolist()


def test_a_score_that_is_not_a_number_is_a_missing_value(folder, tmp_path):
    table = pa.table({"clip_id": NAMES, "aesthetic_score": SCORES}).select(
        ["clip_id", "aesthetic_score"]
    )  # with NaN, as some publishers write it
    assert table["aesthetic_score"].null_count == 0
    columns = [table[name] if name in table.column_names else pa.nulls(NUM) for name in TABLES["catalog"].names]
    pq.write_table(pa.table(columns, names=TABLES["catalog"].names).cast(TABLES["catalog"]), tmp_path / "catalog.parquet")
    shutil.copytree(folder, tmp_path / "copy")
    ws = open_with(tmp_path / "copy", "where: aesthetic_score > 7.3")
    ws.scores.publish({("catalog", "catalog"): tmp_path / "catalog.parquet"})
    assert sorted(chosen(ws)) == [37, 38, 39]
    assert ws.published("curated_subset/own").facts["conditions"][0]["no value"] == 4


def test_no_clip_that_meets_the_condition_is_an_error_with_figures(folder):
    with pytest.raises(GateFailed, match=r"none of the 40 ranked clips meets `where: aesthetic_score > 100`.*false for 36, no value for 4"):
        chosen(open_with(folder, "where: aesthetic_score > 100"))


def test_a_condition_that_fails_on_a_clips_value_is_named(folder):
    with pytest.raises(MotiveError, match=r"where: caption::INT > 3.*Could not convert string 'clip"):
        chosen(open_with(folder, "where: 'caption::INT > 3'"))


def test_fewer_clips_than_the_share_are_said_and_not_padded(folder, caplog):
    ws = open_with(folder, "where: aesthetic_score > 7.3")
    assert sorted(chosen(ws)) == [37, 38, 39]
    assert "curated_subset/own: only 3 of 10 clips" in caplog.text
    assert ws.published("curated_subset/own").facts["wanted clips"] == 10


def weighted_order(rule: str, weights: dict[str, float]) -> np.ndarray:
    """The slow version."""
    weight = np.array([weights.get(category, 1) for category in CATEGORIES], dtype=float)
    votes = np.array([row > np.sort(row)[int(0.7 * (NUM - 1))] for row in INFLUENCE])
    mean = weight @ INFLUENCE.astype(float) / weight.sum()
    keys = [(-mean[n],) if rule == "mean_influence" else (-(weight @ votes[:, n]), -mean[n]) for n in range(NUM)]
    return np.array(sorted(range(NUM), key=lambda n: keys[n]))


@pytest.mark.parametrize("rule", ["vote", "mean_influence"])
@pytest.mark.parametrize("weights", [{"spin": 0}, {"slide": 2.5, "fall": 0.25}])
def test_votes_and_means_count_by_the_weights(folder, rule, weights):
    shown = ", ".join(f"{name}: {value}" for name, value in weights.items())
    assert chosen(open_with(folder, f"rule: {rule}, weights: {{{shown}}}")) == weighted_order(rule, weights)[:10].tolist()


def test_without_a_rule_of_its_own_a_weighted_arm_has_that_of_its_variant(folder):
    ws = open_with(folder, "weights: {spin: 3}", "lead_arm: own\n")
    other = Workspace(
        ws.config.model_validate(ws.config.model_dump(by_alias=True) | {"vote": {"percentile": 70, "rule": "mean_influence"}})
    )
    assert chosen(ws) == weighted_order("vote", {"spin": 3})[:10].tolist()
    assert chosen(other) == weighted_order("mean_influence", {"spin": 3})[:10].tolist()


def test_each_category_picks_its_share_and_a_clip_counts_once(folder):
    ws = open_with(folder, "quotas: {slide: 0.3, fall: 0.3}")
    found = chosen(ws)
    assert len(set(found)) == 10
    facts = ws.published("curated_subset/own").facts["quotas"]
    assert [(row["category"], row["share"], row["clips"]) for row in facts] == [("fall", 0.3, 3), ("slide", 0.3, 3)]
    alone = {name: weighted_order("vote", {other: 0 for other in ("slide", "spin", "fall") if other != name}) for name in ("slide", "fall")}
    assert set(alone["slide"][:3]) <= set(found)
    assert set(alone["fall"][:3]) <= set(found)
    assert all(row["clips without a vote of it"] == 0 for row in facts)


def test_quotas_fill_with_the_next_clips_of_their_category_where_limits_refuse(folder):
    plain = chosen(open_with(folder, "quotas: {slide: 1}"))
    assert plain == weighted_order("vote", {"spin": 0, "fall": 0})[:10].tolist()
    ws = open_with(folder, "quotas: {slide: 1}, where: motion_magnitude_px < 30")
    some = chosen(ws)
    table = left_out(ws)
    assert table["clip_id"].tolist() == [n for n in ORDER if n >= 30], "in the order of all queries"
    assert [ORDER[rank - 1] for rank in table["rank"]] == table["clip_id"].tolist()
    assert some == [n for n in weighted_order("vote", {"spin": 0, "fall": 0}) if n < 30][:10]


def test_the_later_ones_of_near_duplicates_give_way(folder):
    ws = open_with(folder, "max_near_duplicates: 1")
    assert chosen(ws) == [n for n in ORDER if n not in ALIKE[1:]][:10]
    table = left_out(ws)
    assert table[["clip_id", "rank", "reason", "other_id"]].values.tolist() == [
        [ALIKE[1], 3, "near_duplicate", ALIKE[0]],
        [ALIKE[2], 6, "near_duplicate", ALIKE[0]],
    ]
    assert ws.published("curated_subset/own").facts["left out: near_duplicate"] == 2
    assert chosen(open_with(folder, "max_near_duplicates: 2")) == [n for n in ORDER if n != ALIKE[2]][:10]


def test_a_clip_that_fails_the_condition_joins_no_group(folder):
    without = f"clip_id <> '{NAMES[ALIKE[1]]}'"
    found = chosen(open_with(folder, f'max_near_duplicates: 1, where: "{without}"'))
    assert found == [n for n in ORDER if n != ALIKE[1]][:10], "it no longer connects the two others"


def test_windows_of_one_file_are_limited(folder):
    ws = open_with(folder, "max_per_video: 1")
    assert chosen(ws) == [n for n in ORDER if n not in OF_ONE_FILE[1:]][:10]
    assert left_out(ws)[["clip_id", "reason", "other_id"]].values.tolist() == [[n, "same_video", OF_ONE_FILE[0]] for n in OF_ONE_FILE[1:]]


def test_a_clip_whose_gradient_is_that_of_a_chosen_one_gives_way_to_it(folder):
    ws = open_with(folder, "max_similarity: 0.95")
    assert chosen(ws) == [n for n in ORDER if n not in ORDER[[1, 3]]][:10]
    table = left_out(ws)
    assert table[["clip_id", "reason", "other_id"]].values.tolist() == [[n, "similar_gradient", ORDER[0]] for n in ORDER[[1, 3]]]
    assert "cosine of 1.000" in table["detail"][0]


@pytest.mark.parametrize(
    ("budget", "most"), [("{frames: 60}", 60), ("{seconds: 3.75}", 60), ("{seconds: 1.0}", 16), ("{frames: 100000}", 100_000)]
)
def test_a_budget_takes_the_place_of_the_share(folder, budget, most):
    ws = open_with(folder, f"budget: {budget}")
    found = chosen(ws)
    total = np.cumsum(FRAMES[ORDER])
    assert found == ORDER[: max(1, int((total <= most).sum()))].tolist()
    facts = ws.published("curated_subset/own").facts
    assert (facts["budget_frames"], facts["used_frames"]) == (most, FRAMES[found].sum())
    assert facts["used_seconds"] == FRAMES[found].sum() / 16


def test_all_wishes_go_together(folder):
    ws = open_with(
        folder,
        "where: motion_magnitude_px < 36, weights: {fall: 2}, quotas: {spin: 0.5}, max_near_duplicates: 1, max_per_video: 1, max_similarity: 0.9, "
        "budget: {frames: 120}",
    )
    found = chosen(ws)
    assert found == chosen(ws), "the same again"
    assert all(n < 36 for n in found)
    assert sum(n in ALIKE for n in found) <= 1
    assert sum(n in OF_ONE_FILE for n in found) <= 1
    rows = GRADIENTS[found, :8] / np.linalg.norm(GRADIENTS[found, :8], axis=1, keepdims=True)
    assert (rows @ rows.T - 2 * np.eye(len(found))).max() <= 0.9
    assert FRAMES[found].sum() <= 120
    assert set(left_out(ws)["clip_id"]).isdisjoint(found)


def test_a_category_that_no_query_has_is_named(folder):
    for wishes in ("weights: {slid: 2}", "quotas: {slid: 0.5}"):
        with pytest.raises(
            ConfigError, match=r"own\.(weights|quotas) names the category 'slid'.*Did you mean 'slide'\? There are: 'fall', 'slide', 'spin'"
        ):
            chosen(open_with(folder, wishes))
    with pytest.raises(ConfigError, match=r"own\.weights gives every category of the queries that vote the weight 0"):
        chosen(open_with(folder, "weights: {slide: 0, spin: 0, fall: 0}"))


def test_a_ranking_without_its_gradients_or_influence_is_out_of_step(folder, tmp_path):
    ws = open_with(folder, "max_similarity: 0.9")
    copied = Workspace(
        parse_config(
            BASE + "arms: [motive, {name: own, variant: motive, max_similarity: 0.9, quotas: {slide: 0.5}}]\n", tmp_path / "m.yaml"
        )
    )
    for asset, name in (("voted_ranking/motive", "ranking"), ("eligible_pool", "pool"), ("query_catalog", "queries")):
        publish_table(copied, asset, name, ws.published(asset).table(name))
    publish_influence_matrix(copied, "motive", QUERIES, NAMES[1:], INFLUENCE[:, 1:])
    with pytest.raises(GateFailed, match=r"1 clips of voted_ranking/motive have no influence.*0000000000000000"):
        publish_subset(copied, "own")
    publish_influence_matrix(copied, "motive", QUERIES, NAMES, INFLUENCE)
    publish_gradients(copied, "projected_gradients/motive", NAMES[1:], GRADIENTS[1:])
    with pytest.raises(GateFailed, match=r"1 ranked clips have no gradient in projected_gradients/motive"):
        publish_subset(copied, "own")


def test_trainings_do_not_depend_on_who_was_left_out(folder):
    first = publish_subset(open_with(folder, "where: aesthetic_score > 7.3"), "own")
    again = publish_subset(open_with(folder, "where: aesthetic_score > 7.2999"), "own")
    assert first.data_version == again.data_version
    assert first.fingerprint != again.fingerprint


@pytest.mark.parametrize(
    ("wishes", "words", "reads"),
    [
        ("where: votes > 1", "where votes > 1", {"clip_catalog", "latents", "motion_masks"}),
        ("weights: {slide: 2}", "votes weighted by category (slide 2)", {"query_catalog", "influence_matrix/motive"}),
        ("quotas: {slide: 0.5}", "quotas by category (slide 0.5)", {"query_catalog", "influence_matrix/motive"}),
        ("max_near_duplicates: 1", "at most 1 of a group of near-duplicates", {"latents"}),
        ("max_per_video: 2", "at most 2 of one video file", {"clip_catalog"}),
        ("max_similarity: 0.9", "no two gradients more similar than 0.9", {"projected_gradients/motive"}),
        ("budget: {frames: 9}", "at most 9 frames", {"latents"}),
        ("budget: {seconds: 9}", "at most 9 seconds of video", {"latents"}),
    ],
)
def test_an_arm_reads_what_its_wishes_need_and_says_them(tmp_path, wishes, words, reads):
    asset = Graph(open_with(tmp_path, wishes).config).asset("curated_subset/own")
    assert set(asset.reads) == {"eligible_pool", "voted_ranking/motive"} | reads
    assert asset.description.endswith(f"by its ranking; {words}.")


def test_the_edited_arm_starts_from_a_lead_arm_with_wishes(folder):
    arms = "arms: [motive, edited, {name: own, variant: motive, max_similarity: 0.95, weights: {spin: 2}}]\nlead_arm: own\n"
    ws = Workspace(parse_config(BASE + arms, folder / "motive.yaml"))
    assert set(Graph(ws.config).asset("curated_subset/own").reads) == set(Graph(ws.config).asset("curated_subset/edited").reads)
    own = chosen(ws)
    ws.config.edits_file.write_text(f"clip_id,tick,note\n{NAMES[own[1]]},drop,dull\n{NAMES[ORDER[-1]]},keep,\n", encoding="utf-8")
    edited = publish_subset(ws, "edited").table("subset")["clip_id"].tolist()
    ws.config.edits_file.unlink()
    assert edited == [NAMES[n] for n in (*own[:1], *own[2:], ORDER[-1])]
    rows = ws.scores.query("SELECT clip_id, reason, detail FROM left_out WHERE arm = 'edited'").fetchall()
    assert (NAMES[own[1]], "dropped_by_hand", "dull") in rows
    assert {reason for _, reason, _ in rows} == {"dropped_by_hand", "similar_gradient"}
    assert {clip_id for clip_id, *_ in rows}.isdisjoint(edited)
