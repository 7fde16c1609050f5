"""The whole graph on a real Dagster instance, through the command that users type."""

import json
import re

import dagster as dg
import numpy as np
import pytest
import xarray
import zarr

from assets.batch import BATCH
from assets.instance import instance_folder
from motive_pipeline import cli
from motive_pipeline.config import DEFAULT_ARMS

TRAINED = [arm for arm in DEFAULT_ARMS if arm != "base"]


def test_every_asset_was_computed(project):
    assert {run["status"] for run in project.first.assets.values()} == {"computed"}
    expected = {
        "clip_catalog", "query_catalog", "latents", "query_latents", "motion_masks", "query_masks", "eligible_pool", "rejected_clips", "eval_report",
        "attribution_audit", "preference_bundle", "preference_study", "influence_maps/motive",
        *(f"{name}/{v}" for v in ("motive", "no_mask") for name in ("projected_gradients", "query_gradients", "influence_matrix", "voted_ranking")),
        *(f"{name}/{arm}" for arm in TRAINED for name in ("curated_subset", "finetuned_checkpoint")),
        *(f"{name}/{arm}" for arm in DEFAULT_ARMS for name in ("generated_videos", "eval_scores")),
    }  # fmt: skip
    assert set(project.first.assets) == expected
    assert project.first.assets["projected_gradients/motive"]["rows_computed"] == 18


def test_the_summary_names_report_clips_and_arms(project):
    assert "report.html" in project.first.out
    for arm in DEFAULT_ARMS:
        assert re.search(rf"\b{arm}\b", project.first.out.split("The arms side by side")[1]), arm


def test_a_second_run_does_no_work(project):
    again = project.run()
    assert {run["status"] for run in again.assets.values()} == {"unchanged"}
    assert all(run["rows_computed"] == 0 and run["seconds"] == 0 for run in again.assets.values())
    assert "nothing is stale" in again.err


def test_the_rounds_of_a_run_made_one_curation(project):
    """``motive run`` is several runs of Dagster's: rankings are made in one of them, subsets in a later one."""
    made = project.sql("SELECT DISTINCT asset, run_id FROM history WHERE curation = 1")
    expected = {
        "clip_catalog",
        "query_catalog",
        "voted_ranking/motive",
        "voted_ranking/no_mask",
        *(f"curated_subset/{arm}" for arm in TRAINED),
    }
    assert {row["asset"] for row in made} == expected
    assert len({row["run_id"] for row in made}) == 1


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("asset", ["projected_gradients/motive", "query_gradients/no_mask", "influence_matrix/motive"])
def test_what_motive_path_prints_opens_as_zarr_and_in_xarray_without_a_warning(project, asset):
    folder = project.motive("path", asset).out.strip()
    arrays = {"influence", "query_id", "clip_id"} if asset.startswith("influence") else {"gradient", "clip_id", "grad_norm", "num_frames"}
    listed = zarr.open(folder, mode="r", use_consolidated=False)
    assert {name for name, _ in listed.members()} == arrays
    assert {name for name, _ in zarr.open(folder, mode="r").members()} == arrays
    for options in ({}, {"consolidated": False}):
        assert set(xarray.open_zarr(folder, **options).load().variables) == arrays


def test_the_runs_of_one_command_are_a_batch_of_the_code_location_that_the_ui_loads(project):
    with dg.DagsterInstance.from_config(str(instance_folder(project.config))) as instance:
        runs = [run for run in reversed(instance.get_runs()) if run.tags.get(BATCH, "").endswith(" everything")]
        shown = instance.get_runs(dg.RunsFilter(job_name="everything", tags={".dagster/repository": "__repository__@assets.definitions"}))
    first = [run for run in runs if run.tags[BATCH] == runs[0].tags[BATCH]]
    assert [run.job_name for run in first][:2] == ["observe", "everything"]
    assert len(first) > 5
    assert {run.run_id for run in first if run.job_name == "everything"} <= {run.run_id for run in shown}
    assert first[0].remote_job_origin.location_name == "assets.definitions"


def test_the_gradients_are_a_plain_zarr_group_with_provenance(project):
    folder = project.motive("path", "projected_gradients/motive").out.strip()
    group = zarr.open(folder, mode="r")
    rows = np.asarray(group["gradient"])
    assert group.metadata.zarr_format == 3
    assert rows.shape == (18, 512)
    lengths = np.linalg.norm(rows, axis=1)
    assert np.all((np.abs(lengths - 1) < 1e-5) | (lengths == 0))
    opened = xarray.open_zarr(folder)
    assert opened["gradient"].dims == ("clip", "proj")
    assert {"clip_id", "grad_norm", "num_frames"} <= set(opened.variables)
    ids = np.asarray(group["clip_id"]).tolist()
    assert ids == sorted(ids)
    text = json.dumps(dict(group.attrs))
    for word in ("timestep", "model_hash", "proj_seed", "torch"):
        assert word in text, word


def test_the_influence_matrix_is_query_by_clip(project):
    folder = project.motive("path", "influence_matrix/motive").out.strip()
    opened = xarray.open_zarr(folder)
    assert opened["influence"].dims == ("query", "clip")
    assert opened["influence"].shape == (2, 18)


def test_influence_is_the_product_of_the_published_rows(project):
    ws = project.workspace
    rows = {}
    for name in ("projected_gradients/motive", "query_gradients/motive"):
        group = zarr.open_group(ws.published(name).path, mode="r")
        prefix = np.asarray(group["gradient"])[:, :256].astype(np.float64)
        norm = np.linalg.norm(prefix, axis=1, keepdims=True)
        rows[name] = np.divide(prefix, norm, out=np.zeros_like(prefix), where=norm > 0)
    expected = rows["query_gradients/motive"] @ rows["projected_gradients/motive"].T
    actual = np.asarray(zarr.open_group(ws.published("influence_matrix/motive").path, mode="r")["influence"])
    np.testing.assert_allclose(actual, expected, atol=1e-6)


def test_the_tables_of_the_contract_are_filled(project):
    columns = {
        "clips": "clip_id, path, caption, num_frames, fps, width, height, duration_s, motion_magnitude_px, source",
        "rejects": "path, clip_id, stage, reason, detail",
        "queries": "query_id, path, caption, category",
        "influence": "variant, query_id, clip_id, influence, rank",
        "ranking": "variant, clip_id, votes, mean_influence, rank, selected",
        "harmful": "variant, clip_id, mean_influence, rank",
        "subsets": "arm, clip_id, rank",
        "eval_scores": "arm, seed, metric, backend, value, ci_low, ci_high, num_videos",
        "preference": "arm_a, arm_b, wins, ties, losses, win_rate, ci_low, ci_high",
        "audit": '"check", variant, against, parameter, query_id, value, std_error, ci_low, ci_high, num_units, unit, seconds, verdict',
        "runs": "asset, fingerprint, started_at, seconds, rows_computed, rows_reused",
    }
    counts = {name: len(project.workspace.scores.query(f"SELECT {wanted} FROM {name}").fetchall()) for name, wanted in columns.items()}
    assert counts["clips"] == 18
    assert counts["influence"] == 2 * 2 * 18
    assert counts["ranking"] == 2 * 18
    assert 1 <= counts["harmful"] <= 2 * 4
    assert counts["subsets"] == 18 + 4 * 4
    assert counts["runs"] >= 40
    assert counts["preference"] == 0
    assert counts["audit"] > 60


def test_all_arms_but_full_train_on_subsets_of_equal_size(project):
    sizes = {row["arm"]: row["n"] for row in project.sql("SELECT arm, count(*) AS n FROM subsets GROUP BY arm")}
    assert sizes == {"full": 18, "random": 4, "motion_magnitude": 4, "no_mask": 4, "motive": 4}


def test_a_checkpoint_loads_with_from_pretrained(project):
    from diffusers import WanPipeline

    folder = project.motive("path", "finetuned_checkpoint/motive").out.strip()
    pipeline = WanPipeline.from_pretrained(folder)
    assert type(pipeline.transformer).__name__ == "WanTransformer3DModel"


def test_all_arms_generate_the_same_prompts_and_seeds(project):
    def what(arm: str) -> list[tuple]:
        videos = project.workspace.published(f"generated_videos/{arm}").table("videos")
        return sorted(zip(videos["prompt"], videos["sampling_seed"], strict=True))

    assert all(what(arm) == what("base") for arm in TRAINED)
    assert len(what("base")) == 4


def test_the_report_stands_alone(project):
    folder = project.workspace.published("eval_report").path
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "no verdict" in page
    assert not re.search(r"""(src|href)=["']https?://""", page)
    assert (folder / "report.md").exists()


@pytest.mark.slow
def test_a_changed_vote_threshold_touches_no_gradient(project):
    project.set("vote.percentile", 50)
    after = project.run().assets
    assert after["voted_ranking/motive"]["seconds"] > 0
    for name in ("projected_gradients/motive", "latents", "motion_masks", "influence_matrix/motive"):
        assert after[name] == {"status": "unchanged", "rows_computed": 0, "rows_reused": 0, "rows_rejected": 0, "seconds": 0.0}, name
    project.set("vote.percentile", 90)
    project.run()


@pytest.mark.slow
def test_an_audit_whose_time_is_up_is_gone_on_with_by_the_next_run_once(project):
    project.set("audit", {"checks": ["lds"], "subsets": 12, "steps": 1, "budget_minutes": 1e-6})
    assert project.run().assets["attribution_audit"]["status"] == "computed"
    assert project.workspace.published("attribution_audit").facts["unfinished"] == "24 of 24 trainings are left; the next run goes on"
    again = project.run().assets
    assert {name for name, run in again.items() if run["seconds"]} == {"attribution_audit"}, (
        "it is run again, once, and nothing waits for it"
    )
    del project.settings["audit"]
    project.save()
    project.run()
    assert {run["status"] for run in project.run().assets.values()} == {"unchanged"}


@pytest.mark.slow
def test_a_gate_that_fails_blocks_what_follows_and_the_exit_code_says_so(project):
    project.set("motion.floor_px", 1.0e6)
    outcome = project.motive("run", "--json")
    assert outcome.code == 1
    assert outcome.assets["motion_masks"]["status"] == "failed"
    assert outcome.assets["eval_report"]["status"] == "blocked"
    assert "motion_masks" in outcome.err
    again = project.motive("run", "--json")
    assert again.code == 1
    assert again.assets["projected_gradients/motive"]["status"] == "blocked"
    del project.settings["motion"]
    project.save()
    after = project.run().assets
    assert {run["status"] for run in after.values()} == {"unchanged"}
    assert {name for name, run in after.items() if run["seconds"]} == {"motion_masks", "query_masks"}, "no longer shown as failed"


def test_select_runs_exactly_what_is_stale_among_them(project):
    project.set("gradient.timestep", 600)
    blocked = project.motive("run", "--json", "--select", 'key:"voted_ranking/motive" or key:"influence_matrix/motive"')
    assert blocked.code == 1
    assert set(blocked.assets) == {"voted_ranking/motive", "influence_matrix/motive"}
    assert {run["status"] for run in blocked.assets.values()} == {"blocked"}
    project.set("gradient.timestep", 500)
    assert {run["status"] for run in project.run().assets.values()} == {"unchanged"}
    wrong = project.motive("run", "--select", 'key:"nonsense"')
    assert wrong.code == 1
    assert "there is no asset 'nonsense'" in wrong.err


def test_rank_says_what_the_one_ranking_costs(project, capsys):
    project.set("gradient.timestep", 600)
    assert cli.main(["rank", "--config", str(project.file), "--dry-run"]) == 0
    project.set("gradient.timestep", 500)
    said = capsys.readouterr().out
    assert said.startswith(
        "voted_ranking/motive and curated_subset/motive: 5 stale assets; 20 rows (projected_gradients/motive 18, query_gradients/motive 2); "
    )
    assert re.search(r"at most about \d+ s, 0\.\d{3} device-hours and \d+\.\d MB, estimated from earlier runs", said)


@pytest.mark.parametrize(("format_", "expected"), [("json", '[{"n":18}]'), ("csv", "n\n18"), ("table", "18")])
def test_sql_prints_in_three_formats(project, format_, expected):
    outcome = project.motive("sql", "SELECT count(*) AS n FROM clips", "--format", format_)
    assert expected in outcome.out


def test_sql_on_a_wrong_column_says_so_on_stderr(project):
    outcome = project.motive("sql", "SELECT nonsense FROM clips")
    assert outcome.code == 1
    assert "nonsense" in outcome.err
    assert outcome.out == ""
