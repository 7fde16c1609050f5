"""The bundle of the preference study: blind, balanced, whole, and the same every time."""

import json
import re
import shutil
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from motive_pipeline.config import DEFAULT_ARMS
from motive_pipeline.errors import GateFailed, MotiveError
from motive_pipeline.evaluation.preference.bundle import publish_preference_bundle
from motive_pipeline.evaluation.preference.catch import MIN_DIFFERENCE, make_catch_trials, spoilt
from motive_pipeline.evaluation.preference.key import Key
from motive_pipeline.evaluation.preference.pairs import catch_trials_wanted, deal, pair_up
from motive_pipeline.video.decode import FrameRule, read_clip
from tests.preference_fixtures import PROMPTS, edit_publication, film, publish_films, published_key, study_workspace

COMPARISONS = [("motive", "base"), ("motive", "random"), ("motive", "full"), ("motive", "no_mask")]


def videos(num_prompts: int, *, trainings: int = 1, n: int = 1) -> pd.DataFrame:
    """What a generating stage lists."""
    return pd.DataFrame(
        [
            {"training": t, "prompt": f"prompt {p}", "n": k, "sampling_seed": 10 * p + k, "file": f"seed-{t}/{p}-{k}.mp4"}
            for t in range(trainings)
            for p in range(num_prompts)
            for k in range(n)
        ]
    )


def all_arms(num_prompts: int, **settings) -> dict[str, pd.DataFrame]:
    return {arm: videos(num_prompts, **settings) if arm != "base" else videos(num_prompts, n=settings.get("n", 1)) for arm in DEFAULT_ARMS}


@pytest.fixture(scope="module")
def ws(tmp_path_factory):
    ws = study_workspace(tmp_path_factory.mktemp("bundle"), settings="plans: 6, catch_share: 0.25", trainings=2)
    publish_preference_bundle(ws)
    return ws


@pytest.fixture
def bundle(ws):
    return ws.published("preference_bundle")


def test_no_arm_is_named_in_any_byte_or_file_name_of_the_bundle(bundle):
    files = [file for file in bundle.path.rglob("*") if file.is_file()]
    assert {file.suffix for file in files} == {".html", ".mp4"}
    for file in files:
        content = file.read_bytes().lower() + str(file.relative_to(bundle.path)).encode()
        for arm in DEFAULT_ARMS:
            assert arm.encode() not in content, f"{file.name} says {arm}"
    for file in (bundle.path / "videos").iterdir():
        assert re.fullmatch(r"[0-9a-f]{16}\.mp4", file.name)


def test_the_bundle_needs_nothing_from_outside_and_holds_every_video_it_shows(bundle):
    page = (bundle.path / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"(?:https?:)?//[a-z0-9]+\.", page)
    data = json.loads(re.search(r'id="study">(.*?)</script>', page, re.DOTALL).group(1))
    assert sorted(data["videos"]) == sorted(file.name for file in (bundle.path / "videos").iterdir())
    assert data["videos"] == sorted(data["videos"]), "an order by name tells nothing"
    used = {number for plan in data["plans"] for left, right, _ in plan for number in (left, right)}
    assert used == set(range(len(data["videos"])))


def test_the_key_lies_outside_of_the_bundle_and_a_changed_one_is_refused(ws, bundle, tmp_path):
    assert not list(bundle.path.rglob("key.json"))
    key = Key.of(bundle)
    assert {shot["arm"] for shots in key.body["videos"].values() for shot in shots} == {"motive", "base", "random"}
    file = bundle.folder / "key.json"
    before = file.read_text(encoding="utf-8")
    try:
        file.write_text(before.replace('"arm_b": "base"', '"arm_b": "motive"', 1), encoding="utf-8")
        with pytest.raises(MotiveError, match="not the key of its bundle"):
            Key.of(bundle)
    finally:
        file.write_text(before, encoding="utf-8")


def test_both_sides_of_a_pair_have_the_same_prompt_seed_and_training(ws, bundle):
    tables = {arm: ws.published(f"generated_videos/{arm}").table("videos").set_index("file") for arm in ("motive", "random", "base")}
    pairs, gaps = pair_up(
        ws.config.comparisons,
        {arm: table.reset_index() for arm, table in tables.items()},
        prompt_limit=None,
        seed=ws.config.preference.seed,
    )
    assert gaps == []
    for pair in pairs:
        first, second = tables[pair.a.arm].loc[pair.a.file], tables[pair.b.arm].loc[pair.b.file]
        assert (first["prompt"], first["n"], first["sampling_seed"]) == (second["prompt"], second["n"], second["sampling_seed"])
        assert first["training"] == second["training"] or pair.b.arm == "base"
    assert {(pair.a.arm, pair.b.arm, pair.a.training) for pair in pairs} == {
        ("motive", other, training) for other in ("base", "random") for training in (0, 1)
    }, "trainings are taken in turn, in every comparison"


def test_a_pair_is_the_bytes_of_the_generated_videos(ws, bundle):
    key = Key.of(bundle)
    for name, shots in key.body["videos"].items():
        for shot in shots:
            original = ws.published(f"generated_videos/{shot['arm']}").path / shot["file"]
            assert (bundle.path / "videos" / name).read_bytes() == original.read_bytes()


@pytest.mark.parametrize(("num_prompts", "size", "plans"), [(16, 50, 24), (16, 8, 24), (50, 50, 17), (5, 7, 9), (16, 64, 4)])
def test_sides_comparisons_prompts_and_pairs_are_balanced(num_prompts, size, plans):
    pairs, _ = pair_up(COMPARISONS, all_arms(num_prompts, trainings=3), prompt_limit=None, seed=0)
    assert len(pairs) == 4 * num_prompts
    dealt = deal(pairs, num_catch=0, pairs_per_rater=size, plans=plans, seed=0)
    shown: Counter[int] = Counter()
    on_left: Counter[int] = Counter()
    for plan in dealt:
        assert len(plan) == len({turn.index for turn in plan}) == min(size, len(pairs))
        per_comparison: dict[tuple[str, str], list[bool]] = {}
        for turn in plan:
            per_comparison.setdefault((pairs[turn.index].a.arm, pairs[turn.index].b.arm), []).append(turn.first_left)
            shown[turn.index] += 1
            on_left[turn.index] += turn.first_left
        sizes = [len(per_comparison.get(comparison, [])) for comparison in COMPARISONS]
        assert max(sizes) - min(sizes) <= 3
        for sides in per_comparison.values():
            assert abs(2 * sum(sides) - len(sides)) <= 2
        prompts = Counter(pairs[turn.index].a.prompt for turn in plan)
        assert max(prompts.values()) <= -(-len(plan) // num_prompts) + 1, "few prompts twice"
    counts = [shown[index] for index in range(len(pairs))]
    assert max(counts) - min(counts) <= 1
    for index, count in shown.items():
        assert abs(2 * on_left[index] - count) <= 1


def test_every_rater_has_an_order_of_their_own():
    pairs, _ = pair_up(COMPARISONS, all_arms(4), prompt_limit=None, seed=0)
    orders = [tuple(turn.index for turn in plan) for plan in deal(pairs, num_catch=0, pairs_per_rater=50, plans=10, seed=0)]
    assert len(set(orders)) == 10
    assert tuple(sorted(orders[0])) != orders[0]


def test_catch_trials_are_spread_over_the_plan_with_sides_in_turn():
    pairs, _ = pair_up(COMPARISONS, all_arms(10), prompt_limit=None, seed=0)
    for plan in deal(pairs, num_catch=4, pairs_per_rater=40, plans=12, seed=0):
        places = [place for place, turn in enumerate(plan) if turn.is_catch]
        catches = [turn for turn in plan if turn.is_catch]
        assert len(plan) == 44
        assert sorted(turn.index for turn in catches) == [0, 1, 2, 3]
        assert sum(turn.first_left for turn in catches) == 2
        assert all(11 * part <= place <= 11 * part + 10 for part, place in enumerate(places)), "whoever stops early has seen some"


@pytest.mark.parametrize(("share", "size", "wanted"), [(0.1, 50, 5), (0.1, 4, 1), (0.0, 50, 0), (0.25, 0, 0)])
def test_there_is_at_least_one_catch_trial_unless_none_is_asked_for(share, size, wanted):
    assert catch_trials_wanted(share, size) == wanted


def test_a_spoilt_copy_stands_still_and_is_coarse():
    frames = film(3)
    copy = spoilt(frames)
    assert copy.shape == frames.shape
    assert (copy == copy[0]).all()
    rows, columns = (np.abs(np.diff(copy[0].astype(int), axis=axis)).sum(axis=(1 - axis, 2)) > 0 for axis in (0, 1))
    assert rows.sum() <= 7, "eight blocks along the shorter side"
    assert columns.sum() <= 9
    assert np.abs(copy.astype(int) - frames).mean() > MIN_DIFFERENCE


def test_what_differs_too_little_from_its_copy_makes_no_catch_trial(ws, tmp_path):
    from motive_pipeline.video.encode import write_mp4

    rule = FrameRule.of(ws.config)
    files = {}
    for name, frames in {"blank": np.full((9, 48, 64, 3), 128, np.uint8), "moving": film(1), "other": film(2)}.items():
        files[name] = tmp_path / f"{name}.mp4"
        write_mp4(files[name], frames, 24)
    trials = make_catch_trials(files, 3, rule, 0, tmp_path)
    assert {trial.name for trial in trials} == {"moving", "other"}
    still = read_clip(trials[0].copy, rule).frames_THWC
    assert np.abs(still[-1].astype(int) - still[0]).mean() < 1.0


def test_a_video_without_a_counterpart_is_a_reject_and_the_others_are_paired():
    tables = all_arms(4)
    tables["random"] = tables["random"].iloc[1:]
    pairs, gaps = pair_up([("motive", "random"), ("motive", "base")], tables, prompt_limit=None, seed=0)
    assert len(pairs) == 7
    assert [(gap.shot.arm, gap.shot.file, gap.missing_in) for gap in gaps] == [("motive", "seed-0/0-0.mp4", "random")]


def test_rejects_of_the_bundle_say_which_video_and_why(tmp_path):
    ws = study_workspace(tmp_path, settings="plans: 2")
    publish_films(ws, "random", PROMPTS[:3])
    shared = ws.published("generated_videos/motive").path / "seed-0" / "1-0.mp4"
    edit_publication(ws, "generated_videos/base", lambda folder: (folder / "seed-0" / "1-0.mp4").write_bytes(shared.read_bytes()))
    bundle = publish_preference_bundle(ws)
    rejects = bundle.rejects().set_index("reason")
    assert rejects.loc["no_counterpart", "path"] == "generated_videos/motive/seed-0/3-0.mp4"
    assert "generated_videos/random" in rejects.loc["no_counterpart", "detail"]
    assert rejects.loc["same_video", "path"] == "generated_videos/motive/seed-0/1-0.mp4"
    assert bundle.facts["pairs"] == 4 + 4 - 2
    assert ws.scores.query("SELECT count(*) FROM rejects WHERE stage = 'preference_bundle'").fetchall() == [(2,)]


def test_arms_that_cannot_be_told_apart_make_a_study_without_pairs(tmp_path):
    ws = study_workspace(tmp_path, settings="comparisons: [[motive, base]]")
    theirs = ws.published("generated_videos/motive").path
    edit_publication(ws, "generated_videos/base", lambda folder: shutil.copytree(theirs / "seed-0", folder / "seed-0", dirs_exist_ok=True))
    bundle = publish_preference_bundle(ws)
    assert bundle.facts["pairs"] == bundle.facts["videos"] == 0
    assert set(bundle.rejects()["reason"]) == {"same_video"}


def test_a_video_that_has_gone_fails_the_bundle_by_name(tmp_path):
    ws = study_workspace(tmp_path)
    gone = edit_publication(ws, "generated_videos/base", lambda folder: (folder / "seed-0" / "2-0.mp4").unlink()) / "seed-0" / "2-0.mp4"
    with pytest.raises(GateFailed, match=re.escape(str(gone))):
        publish_preference_bundle(ws)


def test_equal_videos_and_settings_make_an_equal_study_and_other_ones_another(tmp_path):
    studies = {}
    for name, settings in {"one": "", "again": "", "seed": "seed: 1", "plans": "plans: 3"}.items():
        (tmp_path / name).mkdir()
        ws = study_workspace(tmp_path / name, settings=settings)
        bundle = publish_preference_bundle(ws)
        studies[name] = (bundle.facts["study"], bundle.data_version)
    assert studies["one"] == studies["again"]
    assert len({study for study, _ in studies.values()}) == 3


def test_another_question_is_another_bundle_of_another_study(tmp_path):
    found = []
    for number, settings in enumerate(("", 'question: "Which one moves more?"')):
        (tmp_path / str(number)).mkdir()
        found.append(publish_preference_bundle(study_workspace(tmp_path / str(number), settings=settings)))
    assert found[0].facts["study"] != found[1].facts["study"], "answers to one question are none to another"
    assert "Which one moves more?" in (found[1].path / "index.html").read_text(encoding="utf-8")


def test_prompts_are_limited_by_seed_and_hostile_ones_stay_text(tmp_path):
    ws = study_workspace(
        tmp_path, settings="prompt_limit: 2", prompts=[*PROMPTS, "</script><script>alert(1)</script>", "<!-- \u2028 &amp;"]
    )
    key = published_key(ws)
    assert len({pair["prompt"] for pair in key.pairs}) == 2
    (tmp_path / "all").mkdir()
    ws = study_workspace(tmp_path / "all", prompts=["</script><script>alert(1)</script>", "<!-- \u2028 &amp;"])
    publish_preference_bundle(ws)
    page = (ws.published("preference_bundle").path / "index.html").read_text(encoding="utf-8")
    assert page.count("<script") == 2
    assert page.count("</script>") == 2
    assert "alert(1)" in page
    data = json.loads(re.search(r'id="study">(.*?)</script>', page, re.DOTALL).group(1))
    assert set(data["captions"]) == {"</script><script>alert(1)</script>", "<!-- \u2028 &amp;"}


def test_a_turn_is_what_the_page_shows(ws, bundle):
    key = Key.of(bundle)
    page = (bundle.path / "index.html").read_text(encoding="utf-8")
    data = json.loads(re.search(r'id="study">(.*?)</script>', page, re.DOTALL).group(1))
    for number, plan in enumerate(data["plans"]):
        trials = key.plan(number)
        assert [(data["videos"][left], data["videos"][right]) for left, right, _ in plan] == [(trial.left, trial.right) for trial in trials]
        for (_, _, caption), trial in zip(plan, trials, strict=True):
            assert data["captions"][caption] == key.prompt(trial)


def test_videos_that_begin_alike_share_a_copy_and_each_has_its_catch_trial(tmp_path):
    ws = study_workspace(tmp_path, settings="comparisons: [[motive, base]], catch_share: 0.5")
    first = (ws.published("generated_videos/random").path / "seed-0" / "0-0.mp4").read_bytes()

    def begin_alike(folder: Path, tail: bytes) -> None:
        for file in (folder / "seed-0").iterdir():
            ending = tail + file.name.encode()
            file.write_bytes(first + (8 + len(ending)).to_bytes(4, "big") + b"free" + ending)

    for arm, tail in (("motive", b"m"), ("base", b"b")):
        edit_publication(ws, f"generated_videos/{arm}", partial(begin_alike, tail=tail))
    key = published_key(ws)
    assert len(key.body["catch"]) == 2
    assert len({catch["spoilt"] for catch in key.body["catch"]}) == 1
    assert [len(key.plan(number)) for number in range(key.num_plans)] == [6] * 24
