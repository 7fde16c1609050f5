"""Sides, frames and prompt tokens that do not fit the model are refused before any clip is read, with the nearest that fit."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from motive_pipeline.config import Config, load_config, parse_config
from motive_pipeline.errors import ConfigError, MotiveError
from motive_pipeline.latents.stage import publish_latents
from motive_pipeline.models.folder import model_family
from motive_pipeline.models.input_rules import InputRules, cogvideox_rules, ltx_rules, require_fitting_settings, wan_rules
from motive_pipeline.models.load import observe_base_encoders, observe_base_model
from motive_pipeline.motion.stage import publish_motion_masks
from motive_pipeline.video.decode import FrameRule
from tests.clip_fixtures import project

WAN_5B = wan_rules({"z_dim": 48, "scale_factor_temporal": 4, "scale_factor_spatial": 16}, {"patch_size": [1, 2, 2]})
LTX = ltx_rules({"spatio_temporal_scaling": [True, True, True, False], "patch_size": 4, "patch_size_t": 1}, {"patch_size": 1})
COGVIDEOX = cogvideox_rules({"block_out_channels": [128, 256, 256, 512]}, {"max_text_seq_length": 226})


def config_of(tokens: int = 512, **clips) -> Config:
    sections = {"clips": {"source": "demo"} | clips, "queries": {"source": "demo"}, "model": {"max_prompt_tokens": tokens}}
    return parse_config(json.dumps(sections), Path("motive.yaml"))


def refusal(rules: InputRules, **settings) -> str:
    with pytest.raises(MotiveError) as refused:
        require_fitting_settings(rules, config_of(**settings), "model.path = 'x'")
    return str(refused.value)


def test_the_published_models_have_these_rules():
    assert (WAN_5B.frame_step, WAN_5B.side_multiple, WAN_5B.prompt_tokens) == (4, 32, None)
    assert (wan_rules({}, {}).frame_step, wan_rules({}, {}).side_multiple) == (4, 16)
    assert (LTX.frame_step, LTX.side_multiple, LTX.prompt_tokens) == (8, 32, (1, 128))
    assert (COGVIDEOX.frame_step, COGVIDEOX.side_multiple, COGVIDEOX.prompt_tokens) == (8, 16, (226, 226))
    assert (COGVIDEOX.grid.temporal_stride, COGVIDEOX.grid.spatial_stride) == (4, 8)
    assert ltx_rules({"spatial_compression_ratio": 32, "temporal_compression_ratio": 8, "patch_size": 1}, {}).side_multiple == 32


@pytest.mark.parametrize(
    ("name", "rules"),
    [("wan2.1-t2v-1.3b", wan_rules({}, {})), ("wan2.2-ti2v-5b", WAN_5B), ("ltx-video-2b", LTX), ("cogvideox-2b", COGVIDEOX)],
)
def test_the_configs_fit_their_models(name, rules):
    require_fitting_settings(rules, load_config(Path(__file__).parents[2] / "configs" / f"{name}.yaml"), "")


def test_sides_are_multiples_of_stride_times_patch():
    """720p is none of Wan 2.2 5B."""
    said = refusal(WAN_5B, width=1280, height=720)
    assert "clips.height = 720, but its sides are multiples of 32 pixels; the nearest that fit: 704 and 736" in said
    assert "clips.width" not in said
    assert "the nearest that fit: 32." in refusal(WAN_5B, width=64, height=16)
    require_fitting_settings(WAN_5B, config_of(width=1280, height=704), "")


def test_frames_follow_the_models_own_rule():
    said = refusal(LTX, tokens=128, num_frames=13, width=704, height=480)
    assert said == (
        "the settings do not fit the model (model.path = 'x'): clips.num_frames = 13, but it takes 8n+1 frames; the nearest that fit: 9 and 17."
    )
    require_fitting_settings(COGVIDEOX, config_of(tokens=226, num_frames=49, width=720, height=480), "")


def test_shorter_clips_need_the_models_step():
    fitting = {"tokens": 128, "num_frames": 17, "width": 704, "height": 480}
    said = refusal(LTX, min_frames=9, **fitting)
    assert (
        "clips.frame_step = 4, so clips shorter than clips.num_frames give 4n+1 frames, but it takes 8n+1; set clips.frame_step: 8" in said
    )
    require_fitting_settings(LTX, config_of(min_frames=9, frame_step=8, **fitting), "")
    require_fitting_settings(LTX, config_of(min_frames=17, **fitting), "")


def test_prompts_have_the_length_that_the_model_was_trained_with():
    assert "model.max_prompt_tokens = 512, but it takes 1 to 128; set model.max_prompt_tokens: 128" in refusal(LTX, width=704, height=480)
    said = refusal(COGVIDEOX, tokens=128, width=720, height=480)
    assert "model.max_prompt_tokens = 128, but it takes exactly 226; set model.max_prompt_tokens: 226" in said


def test_everything_that_is_wrong_is_said_at_once():
    said = refusal(LTX, num_frames=13, width=720, height=400)
    assert [name in said for name in ("clips.width", "clips.height", "clips.num_frames", "model.max_prompt_tokens")] == [True] * 4


def test_cogvideox_1_5_is_refused():
    with pytest.raises(MotiveError, match=r"CogVideoX 1\.5 .* is not supported\. Use CogVideoX-2b or CogVideoX-5b"):
        cogvideox_rules({}, {"patch_size_t": 2})


@pytest.mark.parametrize(
    "stage",
    [
        observe_base_encoders,
        observe_base_model,
        lambda ws: publish_latents(ws, role="clip"),
        lambda ws: publish_motion_masks(ws, role="clip"),
    ],
)
def test_no_clip_is_read_for_a_model_that_does_not_take_it(tiny_model, tmp_path, stage):
    """There are no clips at all here, so whoever looks for them first fails otherwise."""
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    vae = json.loads((folder / "vae/config.json").read_text())
    (folder / "vae/config.json").write_text(json.dumps(vae | {"scale_factor_spatial": 16}))
    (tmp_path / "clips").mkdir()
    (tmp_path / "queries").mkdir()
    ws = project(tmp_path, model={"path": str(folder)})
    with pytest.raises(MotiveError, match=r"clips\.height = 48, but its sides are multiples of 32 pixels; the nearest that fit: 32 and 64"):
        stage(ws)


def test_a_frame_step_is_part_of_a_rows_key_only_where_it_is_not_the_usual_one():
    usual, wide = (FrameRule.of(config_of(num_frames=17, frame_step=step)) for step in (4, 8))
    assert "frame_step" not in usual.content()
    assert wide.content() == usual.content() | {"frame_step": 8}
    for stage in ("latents", "motion_masks", "perceptual_hashes"):
        prints = {config_of(num_frames=17, **changed).fingerprint(stage) for changed in ({}, {"frame_step": 4}, {"frame_step": 8})}
        assert len(prints) == 2, stage


def test_the_number_of_frames_fits_the_step():
    with pytest.raises(ConfigError, match=r"num_frames \(21\) must be 8n\+1, as frame_step says; the nearest below is 17"):
        config_of(num_frames=21, frame_step=8)


def test_the_model_is_told_the_clips_frame_rate():
    assert config_of(fps=24).model.frame_rate == 24


def test_reading_the_rules_loads_no_torch(tiny_model):
    code = (
        "import sys; from pathlib import Path; from motive_pipeline.config import Model; from motive_pipeline.models.folder import input_rules;"
        f"input_rules(Model(path={str(tiny_model)!r})); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert model_family(tiny_model, "").pipeline == "WanPipeline"
