"""``variants`` and ``arms``: named ways to attribute, and arms that choose by them."""

import pytest

from motive_pipeline.config import parse_config
from motive_pipeline.errors import ConfigError, MotiveError
from motive_pipeline.graph import STAGES, Graph

BASE = "clips: {source: demo}\nqueries: {source: demo}\n"
QUICK = BASE + "variants: {quick: {draws: 4, mask: query, preconditioner: trak, percentile: 80}}\n"


@pytest.fixture
def parse(tmp_path):
    return lambda text: parse_config(text, tmp_path / "motive.yaml")


def test_a_variant_overrides_its_keys_and_has_the_sections_for_the_rest(parse):
    config = parse(QUICK + "gradient: {store_dim: 1024}\nvote: {rule: mean_influence}")
    quick = config.of_variant("quick")
    assert (quick.gradient.draws, quick.gradient.mask, quick.gradient.store_dim) == (4, "query", 1024)
    assert quick.influence.uses_trak
    assert not quick.influence.uses_adam
    assert (quick.vote.percentile, quick.vote.rule) == (80, "mean_influence")
    assert config.of_variant("motive") is config
    assert (config.gradient.draws, config.vote.percentile) == (None, 90)


def test_a_variant_is_computed_where_it_is_named_or_an_arm_needs_it(parse):
    assert parse(QUICK).variants == ("motive", "no_mask", "quick")
    assert parse(BASE + "arms: [motive, motive_plus]").variants == ("motive", "motive_plus")
    assert parse(BASE + "arms: [motive]\nvariants: {no_mask: {draws: 2}}").variants == ("motive", "no_mask")
    assert parse(BASE + "arms: [motive, {name: plain, variant: no_mask}]").variants == ("motive", "no_mask")


def test_a_built_in_variant_may_be_changed_key_by_key(parse):
    plus = parse(BASE + "arms: [motive, motive_plus]\nvariants: {motive_plus: {draws: 4}}").of_variant("motive_plus")
    assert (plus.gradient.draws, plus.gradient.draw_timesteps) == (4, 500.0)
    assert plus.influence.preconditioner == "trak"


def test_an_arm_of_ones_own_names_its_variant_and_its_rule(parse):
    config = parse(QUICK + "arms: [base, motive, {name: by_mean, variant: quick, rule: mean_influence}, {name: by_vote, variant: quick}]")
    assert config.arms == ("base", "motive", "by_mean", "by_vote")
    arm = config.arm("by_mean")
    assert (arm.variant, arm.rule, arm.label) == ("quick", "mean_influence", "by mean")
    assert "quick" in arm.description
    assert Graph(config).asset("curated_subset/by_vote").reads == ("eligible_pool", "voted_ranking/quick")
    with pytest.raises(MotiveError, match="Did you mean 'by_mean'"):
        config.arm("by_meen")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("variants: {x: {drawz: 3}}", ["variants.x.drawz: unknown key", "Did you mean 'draws'"]),
        ("variants: {x: {draws: 0}}", ["variants.x.draws = 0", "greater than or equal to 1"]),
        ("variants: {x: {mask: clips}}", ["variants.x.mask = 'clips'", "'query'"]),
        ("variants: {x: {draws: 5, draw_timesteps: [100, 200]}}", ["variants.x: draws (5) must be a multiple", "(2)"]),
        ("variants: {x: {combine: mean_cosine}}", ["variants.x: combine: mean_cosine", "draws: 4"]),
        ("variants: {x: {draws: 2, combine: mean_cosine, similarity: dot}}", ["variants.x: ", "mean_cosine", "cosine"]),
        ("variants: {x: {draws: 2, combine: mean_cosine, projection: exact}}", ["variants.x: ", "mean_cosine", "exact"]),
        ("variants: {x: {preconditioner: adam, projection: factored}}", ["variants.x: influence.preconditioner: adam", "factored"]),
        ("variants: {x: {proj_dim: 4096}}", ["variants.x: influence.proj_dim (4096)", "store_dim"]),
        ("variants: {x: {preconditioner: [adam, adamw]}}", ["variants.x.preconditioner", "[adam, trak]"]),
        ("variants: {x: {adam_clips: 3}}", ["variants.x.adam_clips", "all variants share it"]),
        ("variants: {motive: {draws: 3}}", ["motive is what the sections", "another name"]),
        ("variants: {Quick: {}}", ["variants.Quick", "pattern"]),
        ("variants: {x: {}}\nvariants: {x: {}}", ["variants", "twice"]),
        ("variants: {x: {draws: 2}, x: {draws: 3}}", ["x", "twice"]),
        ("variants: {x: 3}", ["variants.x = 3"]),
        ("arms: [motive, {name: x, variant: quik}]\nvariants: {quick: {}}", ["the arm x", "'quik'", "Did you mean 'quick'"]),
        ("arms: [motive, {name: random, variant: no_mask}]", ["random is the name of a built-in arm"]),
        ("arms: [motive, {name: x, variant: no_mask}, {name: x, variant: motive}]", ["must not name an arm twice"]),
        ("arms: [motive, {name: x, variant: no_mask, rule: votes}]", ["rule = 'votes'", "Did you mean 'vote'"]),
        ("arms: [motive, {name: x}]", ["variant", "missing"]),
        ("preference: {comparisons: [[motive, nobody]]}", ["nobody", "not among arms"]),
        ("lead_arm: nobody", ["lead_arm: nobody is not among arms", "motive"]),
        ("lead_arm: random", ["lead_arm: random does not choose from a variant's ranking", "no_mask, motive"]),
        (
            "arms: [motive, {name: x, variant: no_mask, rule: vote}]\nlead_arm: x",
            ["lead_arm: x does not choose from a variant's ranking by the ranking's own rule"],
        ),
        ("gradient: {draws: 2, draw_timesteps: soon}", ["gradient.draw_timesteps = 'soon'"]),
    ],
)
def test_what_cannot_be_is_refused_with_what_is_allowed(parse, text, parts):
    with pytest.raises(ConfigError) as caught:
        parse(BASE + text)
    for part in parts:
        assert part in str(caught.value)


def changed(before, after) -> set[str]:
    """The assets whose fingerprint differs."""
    graphs = Graph(before), Graph(after)
    shared = graphs[0].assets.keys() & graphs[1].assets.keys()
    return {
        key
        for key in shared
        if len(
            {
                config.fingerprint(graph.assets[key].stage.name, graph.assets[key].lane)
                for config, graph in zip((before, after), graphs, strict=True)
            }
        )
        > 1
    }


@pytest.mark.parametrize(
    ("change", "stale"),
    [
        ("draws: 8, mask: query", {"projected_gradients/quick", "query_gradients/quick"}),
        ("draws: 4, mask: both", {"projected_gradients/quick", "query_gradients/quick"}),
        ("draws: 4, mask: query, trak_lambda: 10", {"influence_matrix/quick"}),
        ("draws: 4, mask: query, percentile: 70", {"voted_ranking/quick"}),
        ("draws: 4, mask: query, rule: mean_influence", {"voted_ranking/quick"}),
    ],
)
def test_a_change_of_a_variant_touches_its_own_lane_alone(parse, change, stale):
    text = BASE + "variants: {quick: {draws: 4, mask: query, preconditioner: trak}}\n"
    other = text.replace("draws: 4, mask: query", change)
    assert changed(parse(text), parse(other)) == stale


def test_a_rule_of_an_arm_touches_its_subset_alone(parse):
    arms = "arms: [base, motive, {name: own, variant: quick, rule: RULE}]\n"
    before, after = (parse(QUICK + arms.replace("RULE", rule)) for rule in ("vote", "mean_influence"))
    assert changed(before, after) == {"curated_subset/own", "eval_report"}, "the report says how each arm chooses"


def test_a_further_variant_makes_nothing_stale(parse):
    assert changed(parse(BASE), parse(QUICK)) == set()
    assert parse(QUICK).fingerprint("gradient") == parse(BASE).fingerprint("gradient", "motive")


def test_what_follows_the_lead_arm_reads_its_variant(parse):
    arms = "arms: [base, full, without_harmful, bottom, motive, {name: own, variant: quick}]\n"
    before, after = parse(QUICK + arms), parse(QUICK + arms + "lead_arm: own\n")
    assert (before.lead_variant, after.lead_variant) == ("motive", "quick")
    assert before.comparisons == (("motive", "base"), ("motive", "full"))
    assert after.comparisons == (("own", "base"), ("own", "full"))
    itself = parse(BASE + "arms: [base, no_mask, motive]\nlead_arm: no_mask")
    assert itself.comparisons == (("no_mask", "base"),), "it is not compared with itself"
    for config in (before, after):
        graph, variant = Graph(config), config.lead_variant
        assert [key for key in graph.assets if key.startswith("influence_maps")] == [f"influence_maps/{variant}"]
        for arm in ("without_harmful", "bottom"):
            assert graph.asset(f"curated_subset/{arm}").reads == ("eligible_pool", f"voted_ranking/{variant}")
    assert changed(before, after) == {"attribution_audit", "preference_bundle", "eval_report"}, "the rankings themselves stay as they are"


def test_variants_that_differ_in_their_mask_alone_share_rows(parse):
    config = parse(BASE + "variants: {quick: {mask: query}}")
    assert len({config.row_fingerprint("gradient", variant) for variant in config.variants}) == 1
    assert config.fingerprint("gradient", "motive") != config.fingerprint("gradient", "quick")


def test_a_mask_on_the_queries_alone_leaves_the_clips_without_masks(parse):
    graph = Graph(parse(QUICK))
    assert "motion_masks" not in graph.asset("projected_gradients/quick").reads
    assert "query_masks" in graph.asset("query_gradients/quick").reads
    assert {"motion_masks", "query_masks"}.isdisjoint(graph.asset("query_gradients/no_mask").reads)


def test_second_moments_exist_where_one_variant_divides_by_them(parse):
    config = parse(BASE + "variants: {both: {preconditioner: [trak, adam]}}")
    graph = Graph(config)
    assert "second_moments" in graph.assets
    assert "second_moments" in graph.asset("projected_gradients/both").reads
    assert "second_moments" not in graph.asset("projected_gradients/motive").reads
    assert "second_moments" not in Graph(parse(BASE)).assets
    assert config.of_variant("both").influence.preconditioner == ("adam", "trak")
    assert set(STAGES["second_moments"].settings) <= config.stage_settings("second_moments").keys()
    assert "influence.adam_clips" in config.stage_settings("second_moments")
