"""motive.yaml: what is accepted, what is refused and how, and what each stage's fingerprint covers."""

from pathlib import Path

import pytest
import yaml

from motive_pipeline.config import Config, load_config, parse_config
from motive_pipeline.config.section import section_names
from motive_pipeline.config.timesteps import ALL_TIMESTEPS
from motive_pipeline.errors import ConfigError
from motive_pipeline.graph import SOURCES, STAGES

REPOSITORY = Path(__file__).parents[2]
BASE = "clips: {source: demo}\nqueries: {source: demo}\n"


def parse(text: str, folder: Path = Path("/somewhere")) -> Config:
    return parse_config(text, folder / "motive.yaml")


def test_defaults_are_the_methods():
    config = parse(BASE)
    assert config.gradient.timestep == "auto"
    assert config.gradient.timesteps(ALL_TIMESTEPS) == (500,)
    assert config.influence.proj_dim == 512
    assert config.gradient.projection == "fastfood"
    assert config.vote.percentile == 90
    assert config.subset.share == 0.10


def test_motive_yaml_names_every_key_with_a_comment_and_its_true_default():
    text = (REPOSITORY / "motive.yaml").read_text(encoding="utf-8")
    raw = yaml.safe_load(text)
    assert set(raw) == set(section_names(Config))
    for section, field in Config.model_fields.items():
        if field.alias in ("arms", "variants") or section == "lead_arm":
            continue
        assert set(raw[section] or {}) == set(field.annotation.model_fields), section
    for line in text.splitlines():
        if line.startswith("  ") and line.strip() and not line.strip().startswith("#"):
            assert "#" in line, f"no comment: {line}"
            if not line.strip().endswith(":") and "demo:" not in line and "alltracker:" not in line:
                assert "Default:" in line or "No default" in line, f"no default: {line}"


def test_the_audits_demo_is_the_demo_with_costly_checks():
    demo, audited = (
        load_config(REPOSITORY / name).model_dump(mode="json", by_alias=True) for name in ("motive.yaml", "configs/demo_audit.yaml")
    )
    assert audited["audit"] == demo["audit"] | {"checks": ["lds", "leave_group_out"], "budget_minutes": 30}
    assert {name for name in demo if audited[name] != demo[name]} == {"audit", "storage"}


def test_the_defaults_that_motive_yaml_tells_are_the_defaults_in_code():
    section = None
    told = 0
    for line in (REPOSITORY / "motive.yaml").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith((" ", "#")):
            key = line.partition(":")[0]
            section = Config.model_fields[key].annotation if key in Config.model_fields else None
        if "Default: " in line and line.startswith("  ") and not line.startswith("   "):
            key, default = line.strip().partition(":")[0], yaml.safe_load(line.partition("Default: ")[2].partition(" (")[0])
            actual = section.model_fields[key].default
            assert default in (actual, str(actual)) or tuple(default or ()) == actual or default == "<root>/state", (
                f"{key}: {default} is {actual}"
            )
            told += 1
    assert told > 50


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (BASE + "gradeint: {}", ["gradeint", "unknown key", "'gradient'"]),
        (BASE + "gradient: {timestop: 3}", ["gradient.timestop", "unknown key", "'timestep'"]),
        (BASE + "subset: {share: 0}", ["subset.share = 0", "greater than 0"]),
        (BASE + "subset: {share: 1.5}", ["subset.share = 1.5", "less than or equal to 1"]),
        (BASE + "gradient: {store_dim: 1000}", ["gradient.store_dim = 1000", "power of two", "512"]),
        (BASE + "influence: {proj_dim: 4096}", ["influence.proj_dim (4096)", "gradient.store_dim", "2048"]),
        (BASE + "gradient: {timestep: 1000}", ["gradient.timestep = 1000", "below 1000"]),
        (BASE + "gradient: {timestep: [500, 500]}", ["gradient.timestep = [500, 500]", "different"]),
        (BASE + "gradient: {projection: fastfod}", ["gradient.projection = 'fastfod'", "'fastfood'", "'factored'"]),
        (BASE + "influence: {preconditioner: adamw}", ["influence.preconditioner = 'adamw'", "'adam'", "'trak'"]),
        (BASE + "influence: {similarity: euclid}", ["influence.similarity = 'euclid'", "'cosine'", "'dot'"]),
        (BASE + "influence: {trak_lambda: 0}", ["influence.trak_lambda = 0", "greater than 0"]),
        (BASE + "influence: {preconditioner: adam}\ngradient: {projection: factored}", ["preconditioner: adam", "projection: factored"]),
        (BASE + "preference: {comparisons: [[motive, motive]]}", ["preference.comparisons", "different arms", "motive"]),
        (BASE + "preference: {comparisons: [[motive, base], [base, motive]]}", ["preference.comparisons", "twice"]),
        (BASE + "preference: {comparisons: []}", ["preference.comparisons", "[[motive, base]]"]),
        (BASE + "preference: {comparisons: [[motive, nobody]]}", ["preference.comparisons names nobody", "no_mask"]),
        (BASE + "arms: [motive, full]\npreference: {comparisons: [[motive, base]]}", ["preference.comparisons names base", "motive"]),
        (BASE + "preference: {catch_share: 0.9}", ["preference.catch_share = 0.9", "0.5"]),
        (BASE + "generate: {guidance: 0.5}", ["generate.guidance = 0.5", "greater than or equal to 1"]),
        (BASE + "vote: {percentile: 0.9}", ["vote.percentile = 0.9", "per cent", "Did you mean 90?"]),
        (BASE + "gradient: {timestep: 0.5}", ["gradient.timestep = 0.5", "0 to 1000", "Did you mean 500?"]),
        (BASE + "gradient: {timestep: [0.25, 0.5]}", ["gradient.timestep", "Did you mean 250?"]),
        (BASE + "subset: {share: 10}", ["subset.share = 10", "It is a fraction: 10 % is 0.1"]),
        (BASE + "finetune: {caption_dropout: 10}", ["finetune.caption_dropout = 10", "10 % is 0.1"]),
        (BASE + "motion: {max_reject_share: 2.5}", ["motion.max_reject_share = 2.5", "2.5 % is 0.025"]),
        (BASE + "gradient: {projection: fastfod}", ["gradient.projection = 'fastfod'", "Did you mean 'fastfood'?"]),
        (BASE + "schedule: {timezone: Europe/Berln}", ["schedule.timezone = 'Europe/Berln'", "IANA", "Did you mean 'Europe/Berlin'?"]),
        (BASE + "schedule: {timezone: ''}", ["schedule.timezone", "IANA"]),
        (BASE + "arms: [motiv]", ["arms.0 = 'motiv'", "Did you mean 'motive'?"]),
        (BASE + "arms: motive", ["arms = 'motive'", "[motive]"]),
        (BASE + "arms: [base, full]", ["arms", "must contain motive"]),
        (BASE + "arms: [motive, motive]", ["arms", "twice"]),
        ("clips: {source: demo, num_frames: 16}\nqueries: {source: demo}", ["clips.num_frames = 16", "4n+1", "13"]),
        ("clips: {source: demo, width: 60}\nqueries: {source: demo}", ["clips.width = 60", "multiple of 16", "48"]),
        ("clips: {source: folder}\nqueries: {source: demo}", ["clips", "path is needed"]),
        ("queries: {source: demo}", ["clips", "missing"]),
        ("[1, 2]", ["expected sections"]),
        ("clips: {", ["not valid YAML"]),
        (BASE + "vote: {percentile: 90}\nvote: {percentile: 80}", ["line 4: vote: given twice, first in line 3", "remove"]),
        (BASE + "vote:\n  percentile: 90\n  percentile: 80", ["line 5: vote.percentile: given twice, first in line 4"]),
        (BASE + "preference: {comparisons: [{a: 1, a: 2}]}", ["line 3: preference.comparisons.0.a: given twice"]),
        (BASE + "motion: {floor_px: .inf}", ["line 3: motion.floor_px: .inf is not a number", "finite"]),
        (BASE + "motion:\n  floor_px: -.Inf", ["line 4: motion.floor_px: -.Inf"]),
        (BASE + "motion: {floor_px: .nan}", ["line 3: motion.floor_px: .nan"]),
        (BASE + "motion: {floor_px: 1.0e+999}", ["line 3: motion.floor_px: 1.0e+999"]),
        (BASE + "motion: {floor_px: 1e999}", ["motion.floor_px = '1e999'", "finite number"]),
        (BASE + "engine: {threads: 010}", ["line 3: engine.threads: YAML reads 010 as 8"]),
        (BASE + "motion: {floor_px: 1:30}", ["line 3: motion.floor_px: YAML reads 1:30 as 90"]),
        (BASE + "motion: {floor_px: 1:30.5}", ["line 3: motion.floor_px: YAML reads 1:30.5 as 90.5"]),
        (BASE + "arms: !!set {base, motive}", ["line 3: arms: ", "Write a list"]),
        (BASE + "arms: &a [base, *a]", ["line 3: arms.1: an alias (*name) stands inside of what it names"]),
        (BASE + "vote: &v {percentile: *v}", ["line 3: vote.percentile: an alias"]),
        (
            BASE + "a: &a [x, x, x, x, x, x, x, x, x, x]\nb: &b [*a, *a, *a, *a, *a, *a, *a, *a, *a, *a]\n"
            "c: &c [*b, *b, *b, *b, *b, *b, *b, *b, *b, *b]\nd: &d [*c, *c, *c, *c, *c, *c, *c, *c, *c, *c]\n"
            "e: &e [*d, *d, *d, *d, *d, *d, *d, *d, *d, *d]",
            ["more than 100000 keys and values"],
        ),
        (BASE + "arms: " + "[" * 20_000, ["too deep"]),
        (BASE + "finetune: {steps: " + "9" * 5000 + "}", ["line 3: finetune.steps: cannot be read"]),
        (BASE + "model: {revision: 2024-13-45}", ["line 3: model.revision: cannot be read"]),
        (BASE + "? [a, b]\n: 1", ["not valid YAML"]),
        (BASE + "1: 2", ["1"]),
        (BASE + "model: {path: !!python/object/apply:os.system [ls]}", ["not valid YAML", "python/object"]),
    ],
)
def test_a_bad_setting_is_refused_by_name_value_and_what_is_allowed(text, parts):
    with pytest.raises(ConfigError) as caught:
        parse(text)
    for part in ["/somewhere/motive.yaml", *parts]:
        assert part in str(caught.value)


def test_aliases_and_merge_keys_that_end_are_read():
    assert parse(BASE + "vote: {<<: {percentile: 80}, percentile: 70}").vote.percentile == 70
    shared = parse("clips: {source: demo, width: &side 64, height: *side}\nqueries: {source: demo}")
    assert (shared.clips.width, shared.clips.height) == (64, 64)


def test_all_mistakes_are_listed_at_once():
    with pytest.raises(ConfigError) as caught:
        parse(BASE + "subset: {share: 0}\nvote: {percentile: 101}\nnonsense: 1")
    assert "3 setting(s)" in str(caught.value)


def test_a_missing_file_says_how_to_name_one(tmp_path):
    with pytest.raises(ConfigError, match="--config or MOTIVE_CONFIG"):
        load_config(tmp_path / "none.yaml")


def test_paths_are_taken_from_the_files_folder(tmp_path):
    config = parse("storage: {root: data}\nclips: {path: ../clips}\nqueries: {path: /q}\n", tmp_path / "sub")
    assert config.storage.root == tmp_path / "sub" / "data"
    assert config.storage.state == tmp_path / "sub" / "data" / "state"
    assert config.clips.path == tmp_path / "clips"
    assert config.queries.path == Path("/q")


def test_every_setting_belongs_to_a_stage_or_to_none_on_purpose():
    config = parse(BASE)
    switches = [(switch, keys) for stage in STAGES.values() for switch, keys in stage.when.items()]
    switched = [key for switch, keys in switches for key in (*(() if callable(switch) else switch[:1]), *keys)]
    used = {key for stage in STAGES.values() for key in (*stage.settings, *stage.publish_settings)} | set(switched)
    used |= {"variants", *(key for source in SOURCES.values() for key in source.settings)}
    elsewhere = {  # where things lie, and how the work is done: nothing that changes what a stage computes
        "storage.root", "storage.state", "storage.postgres", "storage.cache_gb", "storage.keep_curations", "model.device", "gradient.checkpointing", "gradient.deterministic", "finetune.checkpointing", "finetune.eval_every",
        "engine.kind", "engine.address", "engine.workers", "engine.devices", "engine.commit_rows", "engine.commit_s",
        "engine.decode_workers", "engine.decode_timeout_s",
        "schedule.watch", "schedule.automate", "schedule.watch_interval_s", "schedule.settle_s", "schedule.cron", "schedule.timezone", "schedule.auto_heavy",
    }  # fmt: skip
    for section, fields in config.model_dump(mode="json", by_alias=True).items():
        for key in fields if isinstance(fields, dict) else [None]:
            dotted = f"{section}.{key}" if key else section
            assert section in used or dotted in used or dotted in elsewhere, dotted


@pytest.mark.parametrize(
    ("change", "stale"),
    [
        ("vote: {percentile: 80}", {"voted_ranking", "attribution_audit"}),
        ("gradient: {timestep: [250, 500]}", {"gradient", "influence_maps"}),
        ("gradient: {timestep: [500]}", set()),
        ("gradient: {num_noises: 2}", {"gradient", "influence_maps"}),
        ("gradient: {timestep: 751}", {"gradient", "influence_maps"}),
        ("gradient: {draws: 4}", {"gradient", "influence_maps"}),
        ("gradient: {draw_shift: 1.0, draw_timesteps: [100]}", set()),
        ("gradient: {mask: query}", {"gradient", "influence_maps"}),
        ("gradient: {draws_at_once: 4}", {"gradient", "influence_maps"}),
        ("vote: {rule: mean_influence}", {"voted_ranking", "attribution_audit"}),
        ("variants: {quick: {draws: 4}}", set()),
        ("influence: {proj_dim: 256}", {"influence_matrix"}),
        ("influence: {preconditioner: trak}", {"influence_matrix", "influence_maps"}),
        ("influence: {preconditioner: adam}", {"second_moments", "gradient", "influence_maps"}),
        ("influence: {trak_lambda: 3, adam_clips: 8, adam_eps: 0.1}", set()),
        ("motion: {floor_px: 2.0}", {"motion_masks"}),
        ("finetune: {learning_rate: 2.0e-5}", {"finetuned_checkpoint"}),
        ("subset: {share: 0.2}", {"voted_ranking", "curated_subset", "attribution_audit"}),
        ("engine: {commit_rows: 7}", set()),
        ("preference: {seed: 1, plans: 3}", {"preference_bundle"}),
        ("preference: {exclude_failed: false}", {"preference_study"}),
        ("preference: {comparisons: [[motive, base], [motive, random], [motive, full], [motive, no_mask]]}", set()),
        ("arms: [base, full, random, no_mask, motive]", {"eval_report"}),
        ("engine: {keep_latents: false}", {"latents"}),
        ("# only a comment", set()),
    ],
)
def test_a_setting_changes_the_fingerprint_of_its_own_stages_only(change, stale):
    before, after = parse(BASE), parse(BASE + change)
    assert {name for name in STAGES if before.fingerprint(name) != after.fingerprint(name)} == stale


@pytest.mark.parametrize(
    ("switch", "change", "stale"),
    [
        ("adam", "adam_eps: 0.1", {"gradient", "influence_maps"}),
        ("adam", "adam_clips: 8", {"second_moments"}),
        ("adam", "adam_seed: 1", {"second_moments"}),
        ("adam", "trak_lambda: 3", set()),
        ("trak", "trak_lambda: 3", {"influence_matrix"}),
        ("trak", "adam_clips: 8", set()),
    ],
)
def test_a_preconditioners_settings_count_only_while_it_is_chosen(switch, change, stale):
    before, after = (parse(f"{BASE}influence: {{preconditioner: {switch}{more}}}") for more in ("", f", {change}"))
    assert {name for name in STAGES if before.fingerprint(name) != after.fingerprint(name)} == stale


def test_a_changed_file_of_adams_state_is_another_setting(tmp_path):
    file = tmp_path / "state.safetensors"
    file.write_bytes(b"one")
    config = parse(BASE + "influence: {preconditioner: adam, adam_state: state.safetensors}", tmp_path)
    first = config.fingerprint("second_moments")
    assert config.fingerprint("second_moments") == first
    file.write_bytes(b"another")
    assert config.fingerprint("second_moments") != first


def test_a_gate_changes_the_asset_but_not_its_rows():
    before, after = parse(BASE), parse(BASE + "gradient: {max_reject_share: 0.5}")
    assert before.fingerprint("gradient") != after.fingerprint("gradient")
    assert before.row_fingerprint("gradient") == after.row_fingerprint("gradient")


def test_an_edited_file_of_prompts_is_another_setting_of_the_generated_videos(tmp_path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a cat\n")
    before = parse(BASE + "generate: {prompts: prompts.txt}", tmp_path)
    first = before.fingerprint("generated_videos")
    prompts.write_text("a dog\n")
    assert before.fingerprint("generated_videos") != first
    assert before.fingerprint("finetuned_checkpoint") == parse(BASE).fingerprint("finetuned_checkpoint")


def test_people_compare_motive_with_the_usual_arms_that_there_are_unless_told_otherwise():
    assert parse(BASE + "arms: [motive, no_mask, base]").comparisons == (("motive", "base"), ("motive", "no_mask"))
    assert parse(BASE + "arms: [motive, motion_magnitude]").comparisons == ()
    assert parse(BASE + "preference: {comparisons: [[full, random]]}").comparisons == (("full", "random"),)


def test_variants_follow_the_arms():
    assert parse(BASE).variants == ("motive", "no_mask")
    assert parse(BASE + "arms: [motive, base]").variants == ("motive",)
    assert parse(BASE + "arms: [motive, base]").arms == ("base", "motive")
