"""Embeddings of clips and queries, by optical flow or by a network on disk, and the two arms beside the six."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from motive_pipeline.config import Embedding
from motive_pipeline.curation.arms import publish_subset
from motive_pipeline.curation.embeddings import EmbeddingSet, nearest_clips, publish_embeddings
from motive_pipeline.curation.encoders import PretrainedEncoder, encoder_content, encoder_folder
from motive_pipeline.errors import GateFailed, MotiveError
from motive_pipeline.graph import ARMS
from motive_pipeline.storage.workspace import Workspace
from tests import clip_fixtures
from tests.clip_fixtures import catalogued, write_project
from tests.curation_fixtures import publish_table

FRAMES = np.random.default_rng(0).integers(0, 256, (9, 48, 64, 3), dtype=np.uint8)
SHAPE = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 32, "patch_size": 16}


def project(folder: Path, **sections) -> Workspace:
    """A project with every arm, the one that chooses by embeddings among them."""
    return clip_fixtures.project(folder, arms=list(ARMS), **sections)


@pytest.fixture
def ws(tmp_path: Path) -> Workspace:
    write_project(tmp_path)
    return catalogued(project(tmp_path))


def save_encoder(folder: Path, kind: str) -> Path:
    """A random encoder, tiny, in transformers' own layout."""
    import transformers as tf

    torch.manual_seed(0)
    model, processor = {
        "clip_vision": lambda: (tf.CLIPVisionModel(tf.CLIPVisionConfig(**SHAPE)), "CLIPImageProcessor"),
        "clip": lambda: (
            tf.CLIPModel(tf.CLIPConfig(vision_config=SHAPE, text_config=_text(), projection_dim=8)),
            "CLIPImageProcessor",
        ),
        "dinov2": lambda: (tf.Dinov2Model(tf.Dinov2Config(**SHAPE)), "BitImageProcessor"),
        "videomae": lambda: (tf.VideoMAEModel(tf.VideoMAEConfig(**SHAPE, num_frames=4)), "VideoMAEImageProcessor"),
    }[kind]()
    model.save_pretrained(folder)
    size = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}, "do_resize": True, "do_center_crop": True}
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_processor_type": processor} | size))
    return folder


def _text():
    return {key: SHAPE[key] for key in SHAPE if key not in ("image_size", "patch_size")} | {
        "vocab_size": 20, "bos_token_id": 0, "eos_token_id": 1
    }  # fmt: skip


@pytest.fixture(scope="module")
def dinov2(tmp_path_factory) -> Path:
    return save_encoder(tmp_path_factory.mktemp("dinov2"), "dinov2")


@pytest.mark.parametrize(("kind", "entries"), [("clip_vision", 16), ("clip", 8), ("dinov2", 16), ("videomae", 16)])
def test_encoders_in_transformers_format_give_one_unit_vector(tmp_path, kind, entries):
    encoder = PretrainedEncoder(save_encoder(tmp_path, kind), device="cpu", num_frames=3)
    embedding = encoder(FRAMES)
    assert embedding.shape == (entries,)
    assert np.linalg.norm(embedding) == pytest.approx(1.0, abs=1e-6)
    assert (encoder(FRAMES) == embedding).all()
    assert not np.allclose(encoder(255 - FRAMES), embedding, atol=1e-3)


def test_the_features_of_evenly_spaced_frames_are_averaged(dinov2):
    """The slow way: each frame by itself, through the model as transformers gives it."""
    from transformers import AutoImageProcessor, AutoModel

    model, processor = AutoModel.from_pretrained(dinov2).eval(), AutoImageProcessor.from_pretrained(dinov2, backend="pil")
    with torch.inference_mode():
        alone = [model(**processor(images=FRAMES[at], return_tensors="pt")).pooler_output[0].numpy() for at in (0, 4, 8)]
    mean = np.mean(alone, axis=0)
    found = PretrainedEncoder(dinov2, device="cpu", num_frames=3)(FRAMES)
    assert found == pytest.approx(mean / np.linalg.norm(mean), abs=1e-5)


def test_frames_go_to_the_encoder_in_rgb(dinov2):
    encoder = PretrainedEncoder(dinov2, device="cpu", num_frames=1)
    assert not np.allclose(encoder(FRAMES[..., ::-1]), encoder(FRAMES), atol=1e-3)


def drop_a_layer(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    save_file({name: tensor for name, tensor in tensors.items() if "layers.0." not in name}, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda folder: (folder / "preprocessor_config.json").unlink(), "lacks preprocessor_config.json"),
        (lambda folder: (folder / "model.safetensors").unlink(), r"lacks \*\.safetensors"),
        (lambda folder: (folder / "config.json").write_text("{}"), "names no model_type"),
        (lambda folder: (folder / "config.json").write_text('{"model_type": "unheard_of"}'), "transformers cannot load"),
        (
            lambda folder: (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1"),
            "the encoder: .*Git LFS pointer",
        ),
        (lambda folder: (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-4]), "safetensors is cut"),
        (drop_a_layer, r"lack \d+ tensors of a CLIPVisionModel, such as .*layers\.0.* Copy or download the encoder again"),
    ],
)
def test_a_folder_that_is_no_encoder_is_named_with_what_it_lacks(tmp_path, damage, says):
    folder = save_encoder(tmp_path, "clip_vision")
    damage(folder)
    with pytest.raises(MotiveError, match=says):
        PretrainedEncoder(encoder_folder(Embedding(encoder=str(folder))), device="cpu", num_frames=3)


def test_an_encoder_with_nan_in_its_weights_is_refused(tmp_path):
    folder = save_encoder(tmp_path / "encoder", "clip_vision")
    ws = project(tmp_path, embedding={"encoder": str(folder)})
    encoder_content(ws)
    tensors = load_file(folder / "model.safetensors")
    tensors[min(tensors)][0] = float("nan")
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(MotiveError, match=r"embedding\.encoder = .*: the encoder: the tensor .* holds NaN or infinity"):
        encoder_content(ws)


@pytest.mark.parametrize("encoder", ["/nowhere/at/all", "flow_histogramm", "nobody/no-such-encoder"])
def test_an_encoder_that_is_not_there_is_named(encoder):
    with pytest.raises(MotiveError, match=f"embedding.encoder = '{encoder}'"):
        encoder_folder(Embedding(encoder=encoder))


@pytest.fixture
def embedded(ws: Workspace) -> Workspace:
    for role in ("clip", "query"):
        publish_embeddings(ws, role=role)
    return ws


def test_clips_and_queries_have_unit_rows_and_a_second_run_computes_none(embedded):
    for role, count in (("clip", 3), ("query", 3)):
        rows = EmbeddingSet(embedded, role)
        assert len(rows) == count
        for clip_id in rows.clip_ids:
            assert np.linalg.norm(rows.get(clip_id)) == pytest.approx(1.0, abs=1e-5)
        assert publish_embeddings(embedded, role=role).counts.computed == 0


def test_another_encoder_or_its_changed_weights_give_other_rows(embedded, dinov2, tmp_path):
    before = embedded.published("embeddings").data_version
    copy = save_encoder(tmp_path / "own", "dinov2")
    ws = project(tmp_path, embedding={"encoder": "./own", "num_frames": 2})
    first = publish_embeddings(ws, role="clip")
    assert first.counts.computed == 3
    assert first.data_version != before
    assert publish_embeddings(project(tmp_path, embedding={"encoder": str(dinov2), "num_frames": 2}), role="clip").counts.computed == 0, (
        "the same weights elsewhere"
    )
    assert publish_embeddings(project(tmp_path, embedding={"encoder": "./own", "num_frames": 3}), role="clip").counts.computed == 3
    fingerprint = ws.config.fingerprint("embeddings")
    save_encoder(copy, "clip_vision")
    changed = project(tmp_path, embedding={"encoder": "./own", "num_frames": 2})
    assert changed.config.fingerprint("embeddings") != fingerprint, "so that Dagster sees it"
    assert changed.config.row_fingerprint("embeddings") == ws.config.row_fingerprint("embeddings")
    assert publish_embeddings(changed, role="clip").counts.computed == 3


def test_a_clip_that_cannot_be_read_is_a_reject(ws):
    catalog = ws.published("clip_catalog").table("catalog")
    Path(catalog["path"].iloc[0]).unlink()
    with pytest.raises(GateFailed, match=r"embeddings: 1 of 3 clips rejected \(missing_file: 1\)"):
        publish_embeddings(ws, role="clip")


def with_pool(ws: Workspace, clip_ids: list[str]) -> list[str]:
    publish_table(ws, "eligible_pool", "pool", {"clip_id": clip_ids})
    publish_table(ws, "motion_masks", "index", {"clip_id": clip_ids, "motion_magnitude_px": [1.0] * len(clip_ids)})
    return clip_ids


def test_the_arm_embedding_takes_the_clips_that_move_like_the_queries(tmp_path):
    """Queries slide at 3 px a frame: clip 1 slides at 2, clip 0 at 1, clip 2 stands still."""
    write_project(tmp_path)
    ws = catalogued(project(tmp_path, subset={"share": 0.34}, vote={"percentile": 40}))
    for role in ("clip", "query"):
        publish_embeddings(ws, role=role)
    pool = with_pool(ws, sorted(EmbeddingSet(ws, "clip").clip_ids))
    paths = ws.published("clip_catalog").table("catalog").set_index("clip_id")["path"]
    subset = publish_subset(ws, "embedding").table("subset")["clip_id"].tolist()
    assert [Path(paths[clip_id]).name for clip_id in subset] == ["clip_1.mp4"]
    assert nearest_clips(ws, pool) == subset


def test_held_out_queries_have_no_say(embedded, monkeypatch):
    held_out = embedded.published("query_catalog").table("queries").query("role == 'held_out'")["query_id"].tolist()
    asked = []
    original = EmbeddingSet.get
    monkeypatch.setattr(EmbeddingSet, "get", lambda self, clip_id: (asked.append(clip_id), original(self, clip_id))[1])
    nearest_clips(embedded, sorted(EmbeddingSet(embedded, "clip").clip_ids))
    assert len(held_out) == 1
    assert held_out[0] not in asked


def test_a_pool_that_the_embeddings_do_not_cover_stops_the_arm(embedded):
    with_pool(embedded, [*sorted(EmbeddingSet(embedded, "clip").clip_ids), "f" * 16])
    with pytest.raises(GateFailed, match="1 clips of eligible_pool have no embedding"):
        publish_subset(embedded, "embedding")


def test_the_pool_asks_for_embeddings_only_where_an_arm_needs_them(make_config):
    base = "clips: {source: demo}\nqueries: {source: demo}\n"
    assert "embeddings" not in Workspace(make_config(base)).graph.screening
    assert "embeddings" in Workspace(make_config(base + "arms: [motive, embedding]\n")).graph.screening


def test_the_graph_has_the_new_arms_lanes_only_when_asked(make_config):
    from assets.definitions import build_definitions

    base = "clips: {source: demo}\nqueries: {source: demo}\n"
    plain = _parents(build_definitions(make_config(base)))
    assert not [name for name in plain if "embedding" in name or "bottom" in name]
    graph = _parents(build_definitions(make_config(base + f"arms: [{', '.join(ARMS)}]\n")))
    assert graph["curated_subset/embedding"] == {"eligible_pool", "embeddings", "query_embeddings", "query_catalog"}
    assert graph["curated_subset/bottom"] == {"eligible_pool", "voted_ranking/motive"}
    assert graph["embeddings"] == {"clip_catalog"}
    assert graph["query_embeddings"] == {"query_catalog"}
    assert "embeddings" in graph["eligible_pool"]
    assert {"embeddings", "query_embeddings"} <= graph["rejected_clips"]
    assert {"eval_scores/embedding", "eval_scores/bottom", "embeddings"} <= graph["eval_report"]


def _parents(definitions) -> dict[str, set[str]]:
    graph = definitions.resolve_asset_graph()
    return {
        key.to_user_string(): {parent.to_user_string() for parent in graph.get(key).parent_keys} for key in graph.materializable_asset_keys
    }
