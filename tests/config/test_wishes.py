"""The wishes of an arm in ``arms``: what is allowed, what is refused and how, and what a change of one makes stale."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from motive_pipeline.config import parse_config
from motive_pipeline.config.conditions import bare, parse_condition
from motive_pipeline.config.selection import Wishes
from motive_pipeline.errors import ConfigError
from motive_pipeline.graph import STAGES, Graph
from motive_pipeline.storage.published_settings import changes_since
from tests.config.test_variants import changed

BASE = "clips: {source: demo}\nqueries: {source: demo}\n"


@pytest.fixture
def parse(tmp_path):
    return lambda wishes, more="": parse_config(
        BASE + f"arms: [base, motive, {{name: own, variant: no_mask, {wishes}}}]\n{more}", tmp_path / "motive.yaml"
    )


@pytest.mark.parametrize(
    ("condition", "parts"),
    [
        ("aesthetic_score >= 4.5 AND duration_s < 8", ["aesthetic_score >= 4.5", "duration_s < 8"]),
        ("Votes > 4 and (width > 1 OR height > 1) and fps = 16", ["Votes > 4", "(width > 1) OR (height > 1)", "fps = 16"]),
        ("votes > 1 AND (fps > 2 AND width > 3)", ["votes > 1", "fps > 2", "width > 3"]),
        ("votes > 1 OR fps > 2 AND width > 3", ["(votes > 1) OR ((fps > 2) AND (width > 3))"]),
        ("caption = 'a) OR (b' -- a comment", ["caption = 'a) OR (b'"]),
        ("published->>'license' = 'cc0'", ["(published ->> 'license') = 'cc0'"]),
        ("/* five */ votes BETWEEN 2 AND 5", ["votes BETWEEN 2 AND 5"]),
    ],
)
def test_a_condition_is_split_where_all_parts_must_hold(condition, parts):
    assert bare(parse_condition(condition)) == parts


@pytest.mark.parametrize(
    "condition",
    [
        "NOT caption ILIKE '%logo%'",
        "'dark' IN flags",
        "list_contains(flags, 'dark') IS NOT TRUE",
        "len(list_filter(flags, lambda f: f = 'dark')) = 0",
        "nullif(caption, '') IS NOT NULL",
        "CASE WHEN votes > 3 THEN width > 512 ELSE width > 1024 END",
        "clips.width::DOUBLE / height BETWEEN 1.3 AND 1.8",
        "list_count(flags) = 0 AND source LIKE 'panda%' COLLATE nocase",
        "regexp_matches(caption, '^a (dog|cat)') AND abs(mean_influence) > 1e-3",
    ],
)
def test_what_looks_at_one_clip_is_allowed(condition):
    assert parse_condition(condition)


@pytest.mark.parametrize(
    ("condition", "words"),
    [
        ("", "is empty"),
        ("  ", "is empty"),
        ("-- nothing", "is not a condition in SQL"),
        ("aesthetic_score >=", "is not a condition in SQL"),
        ("aesthetik_score > 4", "names aesthetik_score, which is not a column of a clip. Did you mean aesthetic_score?"),
        ("aesthetik_score > 4", "There are: clip_id, path, caption"),
        ('caption = "dog"', "Text stands in single quotes"),
        ("aesthetic_score", "is of the type DOUBLE, neither true nor false"),
        ("caption > 4 + flags", "caption"),
        ("caption LIKE", "is not a condition in SQL"),
        ("lenght(caption) > 4", "calls lenght, which DuckDB does not have. Did you mean length?"),
        ("read_csv('/etc/passwd')", "calls read_csv, which is not allowed"),
        ("read_text('/etc/passwd') = 'a'", "calls read_text, which is not allowed"),
        ("caption IN (SELECT * FROM read_csv('/etc/passwd'))", "has a query inside it"),
        ("EXISTS (FROM '/etc/passwd')", "has a query inside it"),
        ("(SELECT true)", "has a query inside it"),
        ("votes > 1; DROP TABLE clips", "a second statement follows"),
        ("votes > 1; SELECT 1", "must be one condition and nothing else"),
        ("COPY clips TO '/tmp/x'", "is not a condition in SQL"),
        ("ATTACH '/tmp/x.db'", "Type with name ATTACH does not exist"),
        ("votes > 1) OR (1 = 1", "is not a condition in SQL"),
        ("votes > 1 -- ) \n; DROP TABLE clips", "a second statement follows"),
        ("votes > 1 /* open", "is not a condition in SQL"),
        ("TRUE UNION SELECT 1", "must be one condition and nothing else"),
        ("votes > 1, fps > 2", "must be one condition and nothing else"),
        ("votes > 1 AS x", "must be one condition and nothing else"),
        ("TRUE FROM clips", "must be one condition and nothing else"),
        ("TRUE FROM read_csv('/etc/passwd')", "must be one condition and nothing else"),
        ("votes > 1 ORDER BY 1", "must be one condition and nothing else"),
        ("votes > 1 LIMIT 1", "must be one condition and nothing else"),
        ("DISTINCT votes > 1", "must be one condition and nothing else"),
        ("votes > 1 GROUP BY 1", "must be one condition and nothing else"),
        ("votes > 1 USING SAMPLE 10%", "must be one condition and nothing else"),
        ("votes > $1", "a parameter"),
        ("#1 > 2", "a column by its number"),
        ("COLUMNS('vot.*') > 2", "several columns at once"),
        ("count(*) > 1", "which computes over many clips"),
        ("votes > avg(votes)", "which computes over many clips"),
        ("row_number() OVER () > 1", "a window over many clips"),
        ("random() < 0.5", "does not give the same in every run"),
        ("now() > '2030-01-01'", "does not give the same in every run"),
        ("sleep_ms(100000) IS NULL", "does not give the same in every run"),
        ("pg_sleep(100000) IS NULL", "calls pg_sleep, which is not allowed"),
    ],
)
def test_what_is_no_condition_on_a_clip_is_refused(parse, condition, words):
    quoted = condition.replace('"', '\\"').replace("\n", "\\n")
    with pytest.raises(ConfigError) as caught:
        parse(f'where: "{quoted}"')
    assert "arms.2.where" in str(caught.value)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("wishes", "parts"),
    [
        ("where: 3", ["arms.2.where = 3", "valid string"]),
        ("wher: votes > 1", ["arms.2.wher: unknown key. Did you mean 'where'?"]),
        ("quota: {a: 1}", ["arms.2.quota: unknown key. Did you mean 'quotas'?"]),
        ("weights: [slide]", ["arms.2.weights = ['slide']", "dictionary"]),
        ("weights: {slide: -1}", ["arms.2.weights.slide = -1", "greater than or equal to 0"]),
        ("weights: {slide: much}", ["arms.2.weights.slide = 'much'", "valid number"]),
        ("quotas: 0.5", ["arms.2.quotas = 0.5", "dictionary"]),
        ("quotas: {slide: 0}", ["arms.2.quotas.slide = 0", "greater than 0"]),
        ("quotas: {slide: 30}", ["arms.2.quotas.slide = 30", "less than or equal to 1"]),
        ("quotas: {slide: 0.7, spin: 0.31}", ["arms.2.quotas", "the shares add up to 1.01", "at most 1 together"]),
        ("max_near_duplicates: 0", ["arms.2.max_near_duplicates = 0", "greater than or equal to 1"]),
        ("max_near_duplicates: 1.5", ["arms.2.max_near_duplicates = 1.5", "integer"]),
        ("max_per_video: none", ["arms.2.max_per_video = 'none'", "integer"]),
        ("max_similarity: 95", ["arms.2.max_similarity = 95", "is a cosine above 0 and below 1", "Did you mean 0.95?"]),
        ("max_similarity: 1", ["arms.2.max_similarity = 1", "is a cosine above 0 and below 1"]),
        ("max_similarity: 0", ["arms.2.max_similarity = 0", "is a cosine above 0 and below 1"]),
        ("max_similarity: high", ["arms.2.max_similarity = 'high'", "valid number"]),
        ("budget: 3600", ["arms.2.budget = 3600", "dictionary"]),
        ("budget: {}", ["arms.2.budget: name one of seconds and frames"]),
        ("budget: {seconds: 1, frames: 1}", ["arms.2.budget: name one of seconds and frames"]),
        ("budget: {seconds: 0}", ["arms.2.budget.seconds = 0", "greater than 0"]),
        ("budget: {frames: 1.5}", ["arms.2.budget.frames = 1.5", "integer"]),
        ("budget: {minutes: 3}", ["arms.2.budget.minutes: unknown key. Allowed here: seconds, frames"]),
        (
            "rule: vote, where: votes > 1}]\nlead_arm: own\n#",
            ["lead_arm: own does not choose from a variant's ranking by the ranking's own rule"],
        ),
    ],
)
def test_a_wish_that_cannot_be_is_refused_with_what_is_allowed(parse, wishes, parts):
    with pytest.raises(ConfigError) as caught:
        parse(wishes)
    for part in parts:
        assert part in str(caught.value)


def test_every_example_of_the_page_is_an_arm(tmp_path):
    page = (Path(__file__).parents[2] / "docs" / "selection.md").read_text(encoding="utf-8")
    examples = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", page, flags=re.DOTALL)]
    arms = [arm for example in examples for arm in (example["arms"] if isinstance(example, dict) else example) if arm != "motive"]
    assert len(arms) >= 10
    for arm in arms:
        config = parse_config(BASE + f"arms: [motive, {json.dumps(arm)}]\n", tmp_path / "motive.yaml")
        assert config.arm(arm["name"]).selection
    keys = set(re.findall(r"^\| `(\w+)` \|", page, flags=re.MULTILINE))
    assert keys == set(Wishes.model_fields), "the table has every wish"


def test_an_arm_with_wishes_may_lead(parse):
    config = parse("where: votes > 1, max_similarity: 0.9", "lead_arm: own")
    assert (config.lead_variant, config.arm("own").can_lead, config.arm("own").takes_the_first) == ("no_mask", True, False)


def test_without_wishes_an_arm_has_the_settings_that_it_had_before_there_were_any(parse):
    plain = parse("rule: vote")
    assert plain.setting("arms")[-1] == {"name": "own", "variant": "no_mask", "rule": "vote"}
    assert plain.publish_settings("curated_subset", "own") == {"rule": "vote"}
    assert Graph(plain).asset("curated_subset/own").reads == ("eligible_pool", "voted_ranking/no_mask")
    assert plain.arm("own").description == "The first clips of the variant no_mask, by most votes."


def test_sums_of_quotas_are_exact(parse):
    quotas = ", ".join(f"c{number}: 0.1" for number in range(10))
    assert len(parse(f"quotas: {{{quotas}}}").arm("own").selection.quotas) == 10


WISHES = "where: votes > 1, weights: {a: 2}, quotas: {a: 0.5}, max_near_duplicates: 1, max_per_video: 2, max_similarity: 0.9, budget: {seconds: 9}"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("votes > 1", "votes > 2"),
        ("{a: 2}", "{a: 3}"),
        ("{a: 2}", "{b: 2}"),
        ("{a: 0.5}", "{a: 0.4}"),
        ("max_near_duplicates: 1", "max_near_duplicates: 2"),
        ("max_per_video: 2", "max_per_video: 1"),
        ("max_similarity: 0.9", "max_similarity: 0.8"),
        ("seconds: 9", "seconds: 8"),
        ("seconds: 9", "frames: 9"),
        (", budget: {seconds: 9}", ""),
    ],
)
def test_a_change_of_a_wish_touches_its_subset_alone(parse, old, new):
    assert old in WISHES
    assert changed(parse(WISHES), parse(WISHES.replace(old, new))) == {"curated_subset/own", "eval_report"}, (
        "the report says how each arm chooses"
    )


def test_what_differs_is_said_wish_by_wish(parse):
    before, after = parse("where: votes > 1, weights: {a: 2, b: 1}"), parse("weights: {a: 3}, max_similarity: 0.9")
    saved = {"settings": before.stage_settings("curated_subset", "own"), "gates": before.publish_settings("curated_subset", "own")}
    words = changes_since(after, {"stage": "curated_subset", "lane": "own", "code_version": STAGES["curated_subset"].version, **saved})
    assert {"where votes > 1 -> null", "weights.a 2 -> 3", "weights.b 1 -> null", "max_similarity null -> 0.9"} <= set(words)


def test_the_order_of_categories_makes_nothing_stale(parse):
    one, other = (
        parse(f"weights: {{{weights}}}, quotas: {{{quotas}}}")
        for weights, quotas in (("a: 2, b: 1", "a: 0.5, b: 0.2"), ("b: 1, a: 2", "b: 0.2, a: 0.5"))
    )
    assert changed(one, other) == set()


@pytest.mark.parametrize(
    ("wish", "setting"),
    [
        ("max_similarity: 0.9", "influence: {proj_dim: 64}"),
        ("quotas: {a: 0.5}", "vote: {percentile: 50}"),
        ("weights: {a: 2}", "vote: {rule: mean_influence}"),
        ("budget: {seconds: 9}", "clips: {source: demo, fps: 8}"),
    ],
)
def test_what_a_wish_reads_of_other_settings_makes_it_stale(tmp_path, wish, setting):
    def subset(wishes: str, text: str) -> str:
        base = "".join(line + "\n" for line in BASE.splitlines() if line.split(":")[0] != text.split(":")[0])
        config = parse_config(f"{base}{text}\narms: [motive, {{name: own, variant: motive{wishes}}}]\n", tmp_path / "motive.yaml")
        return config.fingerprint("curated_subset", "own")

    neutral = "lead_arm: motive"
    assert subset(f", {wish}", setting) != subset(f", {wish}", neutral)
    assert subset("", setting) == subset("", neutral), "without the wish it does not count"


def test_a_config_without_a_condition_does_not_load_duckdb(tmp_path):
    (tmp_path / "motive.yaml").write_text(BASE + "arms: [motive, {name: own, variant: motive, max_similarity: 0.9}]\n")
    code = "import sys; from motive_pipeline.config import load_config; from pathlib import Path; load_config(Path('motive.yaml')); sys.exit('duckdb' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=False).returncode == 0
