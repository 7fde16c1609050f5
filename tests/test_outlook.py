"""``motive plan --clips N --gpu NAME`` and the configs of released models: their figures are those that the code computes."""

import json
import re
from pathlib import Path

import pytest

from motive_pipeline import cli, first_costs
from motive_pipeline.catalog.changes import Content
from motive_pipeline.commands import planning
from motive_pipeline.config import Config, load_config, parse_config
from motive_pipeline.config.timesteps import expert_range
from motive_pipeline.first_costs import SPREAD, TINY, published_rates, published_seconds
from motive_pipeline.forecast import Forecast
from motive_pipeline.models.chips import CHIPS, MEASURED, chip_called, chip_named
from motive_pipeline.models.published_shapes import PUBLISHED
from motive_pipeline.outlook import Outlook, StageCost, Workload, forward_operations, headline, outlook
from motive_pipeline.storage.workspace import Workspace

REPOSITORY = Path(__file__).resolve().parents[1]
HUB = "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"
BASE = "clips: {{source: demo, num_frames: 81, width: 832, height: 480}}\nqueries: {{source: demo}}\nmodel: {{path: {path}, dtype: bfloat16}}\n"
PASS = "gradient: {checkpointing: true}\n"
CONFIGS = {
    "wan2.1-t2v-1.3b.yaml": "H100",
    "wan2.1-t2v-14b-lora.yaml": "H100",
    "wan2.2-ti2v-5b.yaml": "H200",
    "wan2.2-t2v-a14b-lora.yaml": "H100",
}
TEN_THOUSAND = Workload(num_clips=10_000)


def config(text: str = "", *, path: str = HUB) -> Config:
    return parse_config(BASE.format(path=path) + text, Path("/nowhere/motive.yaml"))


def costs(text: str = "", *, gpu: str = "H200", clips: int = 1000, path: str = HUB) -> dict[str, StageCost]:
    return {cost.stage: cost for cost in look(text, gpu=gpu, clips=clips, path=path).everything}


def look(text: str = "", *, gpu: str = "H200", clips: int = 1000, path: str = HUB) -> Outlook:
    return outlook(config(text, path=path), chip_named(gpu), Workload(num_clips=clips))


def test_the_measured_table_is_the_one_in_the_docs():
    text = (REPOSITORY / "docs" / "performance.md").read_text(encoding="utf-8")
    lines = [line for line in text.split("## On a GPU")[1].splitlines() if line.startswith("|")]
    for row in MEASURED:
        said = [line for line in lines if f"{row.seconds}" in line]
        assert len(said) == 1, row
        assert f"{row.share:.0%}".replace("%", " %") in said[0]
        assert f"{row.memory_gb} GB" in said[0]
    assert "NVIDIA H200" in text
    assert f"{CHIPS['H200'].peak_tflops:.0f} teraflops" in text


@pytest.mark.parametrize(("row", "teraoperations"), [(MEASURED[0], 849), (MEASURED[2], 1562)])
def test_operations_are_those_that_torch_counts(row, teraoperations):
    shape = PUBLISHED[row.model]
    tokens = shape.num_tokens(row.num_frames, row.height, row.width)
    assert 3 * forward_operations(shape, tokens, 512) / 1e12 == pytest.approx(teraoperations, rel=0.03)


def test_a_measured_pass_costs_what_was_measured():
    found = costs(PASS + "arms: [base, motive]\n")["gradients"]
    assert found.is_measured
    assert found.device_hours == pytest.approx(1008 * 3.32 / 3600, rel=0.03)
    assert costs("gradient: {checkpointing: true, deterministic: false}\narms: [base, motive]\n")[
        "gradients"
    ].device_hours == pytest.approx(1008 * 2.25 / 3600, rel=0.03)


@pytest.mark.parametrize(
    ("text", "gpu"),
    [(PASS, "H100"), ("", "H200"), ("gradient: {checkpointing: full}\n", "H200")],
)
def test_what_was_not_measured_is_reckoned(text, gpu):
    assert not costs(text, gpu=gpu)["gradients"].is_measured
    assert not costs(text, gpu=gpu)["finetune"].is_measured


def test_time_grows_with_clips_draws_variants_and_trainings_and_falls_with_the_peak():
    one = costs(PASS + "arms: [base, motive]\n")
    assert costs(PASS + "arms: [base, motive]\n", clips=2008)["gradients"].device_hours == pytest.approx(2 * one["gradients"].device_hours)
    assert costs("gradient: {checkpointing: true, draws: 16}\narms: [base, motive]\n")["gradients"].device_hours == pytest.approx(
        16 * one["gradients"].device_hours
    )
    assert costs(PASS + "arms: [base, motive, no_mask]\n")["gradients"].device_hours == pytest.approx(2 * one["gradients"].device_hours)
    six = costs(PASS + "arms: [base, motive, random]\nfinetune: {seeds: 3}\n")
    assert six["finetune"].device_hours == pytest.approx(6 * one["finetune"].device_hours)
    parameters = PUBLISHED[HUB].denoiser.parameters
    assert six["finetune"].disk_gb == pytest.approx(
        (6 * 2 + 2 * (4 + 8)) * parameters / 1e9
    )  # six checkpoints, two states of the training under way
    assert six["generate"].device_hours == pytest.approx(7 / 2 * one["generate"].device_hours)
    assert costs(PASS + "arms: [base, motive]\n", gpu="A100")["finetune"].device_hours == pytest.approx(
        989 / 312 * one["finetune"].device_hours
    )


def test_the_ranking_alone_takes_one_variant_and_no_training():
    found = look(PASS + "arms: [base, motive, no_mask]\n")
    assert [cost.stage for cost in found.ranking] == ["latents", "gradients"]
    assert found.ranking[1].device_hours == pytest.approx(found.everything[1].device_hours / 2)


def test_only_the_size_that_was_measured_counts_as_measured():
    hub = "Wan-AI/Wan2.2-TI2V-5B-Diffusers"
    large = parse_config(
        BASE.format(path=hub).replace("81, width: 832, height: 480", "121, width: 1280, height: 704") + PASS, Path("/nowhere/motive.yaml")
    )
    found = outlook(large, chip_named("H200"), Workload(num_clips=1000)).everything[1]
    assert found.is_measured
    assert found.device_hours == pytest.approx(2 * 1008 * 7.36 / 3600, rel=0.03)
    assert not costs(PASS, path=hub)["gradients"].is_measured


def test_the_disk_holds_a_gradient_for_each_clip_and_variant():
    assert costs("arms: [base, motive]\n")["gradients"].disk_gb == pytest.approx(1008 * 2048 * 4 / 1e9)
    assert costs("arms: [base, motive, no_mask]\n")["gradients"].disk_gb == pytest.approx(2 * 1008 * 2048 * 4 / 1e9)


def test_the_disk_holds_two_states_of_the_training_under_way():
    def finetune(text: str) -> float:
        return (
            costs(f"arms: [base, motive]\nfinetune: {{seeds: 1, {text}}}\n")["finetune"].disk_gb / PUBLISHED[HUB].denoiser.parameters * 1e9
        )

    checkpoint = finetune("checkpoint_every: null")
    assert checkpoint == pytest.approx(2)
    assert finetune("checkpoint_every: 10") == pytest.approx(checkpoint + 2 * (4 + 8))
    assert finetune("checkpoint_every: 10, ema: 0.9") == pytest.approx(checkpoint + 2 * (4 + 4 + 8))
    assert finetune("checkpoint_every: 10, optimizer: adamw8bit") == pytest.approx(checkpoint + 2 * (4 + 2))


def test_the_disk_holds_latents_unless_they_are_not_kept():
    kept = costs()["latents"].disk_gb
    assert kept == pytest.approx(1016 * 4 * (16 * 21 * 60 * 104 + 64 * 4096) / 1e9)
    assert costs("engine: {keep_latents: false}\n")["latents"].disk_gb == 0


def test_it_needs_neither_clips_nor_model_nor_network(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: pytest.fail("a download"))
    file = tmp_path / "motive.yaml"
    file.write_text(f"clips: {{path: {tmp_path}/none}}\nqueries: {{path: {tmp_path}/none}}\nmodel: {{path: {HUB}}}\n")
    assert cli.main(["plan", "--config", str(file), "--clips", "10000", "--gpu", "rtx4090"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("10000 clips, 8 queries and 8 held-out queries on one RTX 4090 (24 GB, 165 teraflops in bfloat16)\n")
    for name in ("latents", "gradients", "finetune", "generate", "scores", "rank only", "everything"):
        assert re.search(rf"^{name} +\d+(\.\d)? GB +\d+\.\d +\d+(\.\d)? GB", out, re.MULTILINE), name
    assert "reckoned, not measured" in out
    assert re.search(r"finetune: needs about \d+ GB, one RTX 4090 has 24 GB: use ", out)
    assert not (tmp_path / "motive_data").exists()
    assert cli.main(["plan", "--config", str(file), "--clips", "10000", "--gpu", "H100", "--json"]) == 0
    assert [row["stage"] for row in json.loads(capsys.readouterr().out)] == ["latents", "gradients", "finetune", "generate", "scores"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--clips", "10"], "--gpu NAME (one of H100, H200"),
        (["--gpu", "H100"], "--clips N is missing"),
        (["--clips", "10", "--gpu", "Voodoo 2"], "'Voodoo 2' is not a GPU whose speed is known. Use one of H100"),
    ],
)
def test_what_is_missing_is_named(tmp_path, capsys, arguments, says):
    file = tmp_path / "motive.yaml"
    file.write_text(BASE.format(path=HUB))
    assert cli.main(["plan", "--config", str(file), *arguments]) == 1
    assert says in capsys.readouterr().err


def test_a_model_whose_shape_is_not_known_is_named(tmp_path, capsys):
    file = tmp_path / "motive.yaml"
    file.write_text(BASE.format(path="nobody/nothing"))
    assert cli.main(["plan", "--config", str(file), "--clips", "10", "--gpu", "H100"]) == 1
    assert "model.path = 'nobody/nothing' is not on this machine" in capsys.readouterr().err


def test_a_plan_says_what_each_stage_needs_on_this_device(capsys):
    planning._tell_memory(config().model_copy(update={"model": config().model.model_copy(update={"device": "cpu"})}))
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == [
        f"memory of {stage}" for stage in ("latents", "gradients", "finetune", "generate", "scores")
    ]
    assert all("this machine's main memory has" in line for line in lines)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_says_what_it_needs(name):
    file, chip = REPOSITORY / "configs" / name, chip_named(CONFIGS[name])
    settings = load_config(file)
    found = outlook(settings, chip, TEN_THOUSAND)
    assert headline(found, chip, TEN_THOUSAND) in file.read_text(encoding="utf-8")
    assert not found.advice, "it fits the GPU that it names"
    assert settings.influence.proj_dim == settings.gradient.store_dim == 2048
    shape = PUBLISHED[settings.model.path]
    multiple = shape.vae.spatial_stride * shape.denoiser.patch[1]
    assert settings.clips.width % multiple == settings.clips.height % multiple == 0


def test_every_config_of_a_released_model_is_checked():
    assert {file.name for file in (REPOSITORY / "configs").glob("wan*.yaml")} == set(CONFIGS)


def test_the_expert_of_the_two_is_attributed_in_its_own_range():
    settings = load_config(REPOSITORY / "configs" / "wan2.2-t2v-a14b-lora.yaml")
    assert settings.model.expert == "transformer"
    assert all(875 <= timestep <= 1000 for timestep in settings.gradient.timesteps(expert_range(is_second=False, boundary_ratio=0.875)))


@pytest.mark.parametrize("name", ["NVIDIA H100", "h100", "RTX-4090", "GeForce RTX 4090", "a100 40gb"])
def test_a_gpu_is_found_however_it_is_written(name):
    assert chip_named(name).name in CHIPS


@pytest.mark.parametrize(
    ("device", "known"),
    [("NVIDIA H100 80GB HBM3", "H100"), ("NVIDIA H200", "H200"), ("NVIDIA A100-SXM4-40GB", "A100"), ("NVIDIA GeForce RTX 4090", "RTX 4090"),
     ("NVIDIA L40S", "L40S"), ("NVIDIA L4", None), ("Tesla T4", None)],
)  # fmt: skip
def test_a_gpu_is_known_by_what_it_calls_itself(device: str, known: str | None):
    chip = chip_called(device)
    assert (None if chip is None else chip.name) == known


def test_on_a_known_gpu_the_first_run_costs_what_the_outlook_says(monkeypatch):
    settings = config("finetune: {seeds: 2, lora: {rank: 8}}\n")
    monkeypatch.setattr(first_costs, "_gpu_name", lambda _: "NVIDIA H100 80GB HBM3")
    rates = published_rates(settings)
    workload = Workload(num_clips=100, num_queries=8, num_held_out=4)
    hours = {cost.stage: cost.device_hours for cost in outlook(settings, CHIPS["H100"], workload).everything}

    def seconds(stage: str, lane: str = "") -> float:
        return published_seconds(settings, rates, stage, lane, workload.num_queries + workload.num_held_out)

    trained = [arm for arm in settings.arms if arm != "base"]
    assert seconds("latents") * workload.num_encoded == pytest.approx(3600 * hours["latents"])
    gradients = sum(seconds("gradient", variant) for variant in settings.variants)
    assert gradients * (workload.num_clips + workload.num_queries) == pytest.approx(3600 * hours["gradients"])
    assert sum(seconds("finetuned_checkpoint", arm) for arm in trained) == pytest.approx(3600 * hours["finetune"])
    assert sum(seconds("generated_videos", arm) for arm in settings.arms) == pytest.approx(3600 * hours["generate"])
    assert seconds("eval_report") is None


def test_the_embedded_model_has_rates_for_the_demos_clips_alone(tmp_path):
    demo = "clips: {source: demo, num_frames: 17, width: 64, height: 64}\nqueries: {source: demo}\nmodel: {path: tiny, device: cpu}\n"
    ws = Workspace(parse_config(demo, tmp_path / "motive.yaml"))
    contents = [Content(clip_id=f"{number:016x}", caption="a disc", part="clip", names=frozenset()) for number in range(5)]
    forecast = Forecast(ws, {"clip": contents, "query": contents[:2]})
    cost = forecast.estimate("projected_gradients/motive")
    assert (cost.rows, cost.is_measured) == (5, False)
    assert cost.seconds == pytest.approx(5 * TINY.gradient_s)
    assert (cost.low_s, cost.high_s) == (cost.seconds / SPREAD, cost.seconds * SPREAD)
    assert forecast.estimate("finetuned_checkpoint/motive").seconds == pytest.approx(1000 * 8 * TINY.training_s)
    assert forecast.estimate("eval_report").seconds is None
    assert published_rates(parse_config(demo.replace("64", "128"), tmp_path / "motive.yaml")) is None
