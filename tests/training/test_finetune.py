"""Fine-tuning: provably right, bit-reproducible, the same start, steps and noise for every arm, and a kill costs one training at most."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import WanPipeline
from scipy import stats

from motive_pipeline.config import Finetune
from motive_pipeline.errors import GateFailed
from motive_pipeline.models.conditioning import repeated, stacked
from motive_pipeline.models.load import load_model
from motive_pipeline.training.finetune import checkpoint_folder, load_records, publish_checkpoint
from motive_pipeline.training.loop import Batches, finetune, learning_rate, shuffled_forever, step_draw
from motive_pipeline.training.weights import MasterWeights, RunningMean
from tests.curation_fixtures import clip_names, publish_table
from tests.tiny_wan import build_model, save_tiny_wan
from tests.training_fixtures import BY_SHAPE, CLIPS, LONG, SETTINGS, WIDE, make_workspace, state


def train_by_hand(model, clips, by_shape, settings: Finetune, training: int) -> list[float]:
    """The loop written out: AdamW from its paper, flow matching as Lipman et al. (2023) write it."""
    parameters = list(model.transformer.parameters())
    first, second = [torch.zeros_like(p) for p in parameters], [torch.zeros_like(p) for p in parameters]
    streams = {shape: shuffled_forever(ids, training) for shape, ids in by_shape.items()}
    empty, losses = model.encode_prompt(""), []
    for step in range(settings.steps):
        draw = step_draw(training, step, settings)
        shape = WIDE if draw.group < 6 / 8 else LONG
        ids = [next(streams[shape]) for _ in range(settings.batch_size)]
        noise = torch.randn((settings.batch_size, 16, *shape), generator=draw.noise)
        sigma = (draw.timestep_B / 1000).view(-1, 1, 1, 1, 1)
        h = torch.stack([clips[i][0] for i in ids])
        prompt = stacked([empty if drop else clips[i][1] for i, drop in zip(ids, draw.drop_caption_B, strict=True)])
        velocity = model.predict((1 - sigma) * h + sigma * noise, draw.timestep_B, prompt)
        total = ((velocity - (noise - h)) ** 2).mean()
        gradients = torch.autograd.grad(total, parameters)
        norm = torch.sqrt(sum((g**2).sum() for g in gradients))
        scale = min(1.0, float(settings.clip_norm / (norm + 1e-6)))
        rate = settings.learning_rate * min(1.0, (step + 1) / (int(settings.warmup_share * settings.steps) + 1))
        b1, b2 = settings.betas
        with torch.no_grad():
            for p, g, m, v in zip(parameters, gradients, first, second, strict=True):
                g = g * scale
                m.mul_(b1).add_((1 - b1) * g)
                v.mul_(b2).add_((1 - b2) * g * g)
                p -= rate * settings.weight_decay * p
                p -= rate * (m / (1 - b1 ** (step + 1))) / (torch.sqrt(v / (1 - b2 ** (step + 1))) + 1e-8)
        losses.append(total.item())
    return losses


@pytest.mark.parametrize("micro_batch_size", [None, 1, 2])
def test_the_loop_is_the_one_written_out_by_hand_whatever_the_micro_batches(micro_batch_size: int | None) -> None:
    """By hand a batch is whole. Micro-batches of 2 cut 3 clips unevenly: with wrong weights the gradient points elsewhere."""
    ours, theirs = build_model(), build_model()
    settings = SETTINGS.model_copy(update={"micro_batch_size": micro_batch_size})
    losses = finetune(ours, BY_SHAPE, CLIPS.__getitem__, settings, training=1)
    expected = train_by_hand(theirs, CLIPS, BY_SHAPE, SETTINGS, training=1)
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    moved = build_model()
    for (name, a), b, start in zip(
        ours.transformer.named_parameters(), theirs.transformer.parameters(), moved.transformer.parameters(), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=2e-5, msg=lambda text, name=name: f"{name}: {text}")
        assert not torch.equal(a, start), f"{name} was not trained"


def test_training_twice_gives_the_same_bits_and_another_number_gives_others() -> None:
    runs = []
    for training in (0, 0, 1):
        model = build_model()
        finetune(model, BY_SHAPE, CLIPS.__getitem__, SETTINGS, training=training)
        runs.append(state(model))
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]


def test_training_lowers_the_loss_on_a_set_it_can_memorise() -> None:
    settings = Finetune(steps=100, batch_size=4, learning_rate=4e-3, caption_dropout=0.0, shift=3.0)
    losses = finetune(build_model(), {WIDE: ["b"]}, CLIPS.__getitem__, settings, training=0)
    assert np.mean(losses[-10:]) < 0.75 * np.mean(losses[:10])


class Recording:
    """A model that notes what it is asked to predict; all else is the model's."""

    def __init__(self, model) -> None:
        self._model = model
        self.calls: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []

    def __getattr__(self, name: str):
        return getattr(self._model, name)

    def predict(self, latents_BCFHW, timestep_B, conditioning):
        self.calls.append((latents_BCFHW.detach(), timestep_B, conditioning["prompt_embeds"]))
        return self._model.predict(latents_BCFHW, timestep_B, conditioning)


def test_noise_timesteps_and_dropped_captions_are_the_same_in_every_arm() -> None:
    """With latents of 0 the model sees sigma * noise."""
    settings = SETTINGS.model_copy(update={"caption_dropout": 0.5, "shift": 2.0})
    seen = []
    for names in ("bcd", "fgh"):
        model = Recording(build_model())
        finetune(model, {WIDE: list(names)}, lambda clip_id: (torch.zeros(16, *WIDE), CLIPS[clip_id][1]), settings, training=2)
        seen.append(model.calls)
    empty = build_model().encode_prompt("")["prompt_embeds"]
    for (noise_a, t_a, prompt_a), (noise_b, t_b, prompt_b) in zip(*seen, strict=True):
        assert torch.equal(noise_a, noise_b)
        assert torch.equal(t_a, t_b)
        dropped = [[torch.equal(row, empty) for row in prompt] for prompt in (prompt_a, prompt_b)]
        assert dropped[0] == dropped[1]
    assert any(not torch.equal(a[2], b[2]) for a, b in zip(*seen, strict=True)), "the captions are those of the arm"
    assert not torch.equal(seen[0][0][1], seen[0][1][1]), "each step has its own draw"


def test_no_more_than_a_micro_batch_is_with_the_model_at_once() -> None:
    model = Recording(build_model())
    finetune(model, BY_SHAPE, CLIPS.__getitem__, SETTINGS.model_copy(update={"steps": 2, "micro_batch_size": 2}), training=0)
    assert [len(latents) for latents, _, _ in model.calls] == [2, 1, 2, 1]


def test_timesteps_are_uniform_in_sigma_and_then_shifted() -> None:
    settings = Finetune(batch_size=4000, shift=3.0, caption_dropout=0.25)
    draw = step_draw(0, 0, settings)
    sigma = draw.timestep_B / 1000
    uniform = sigma / (3.0 - 2.0 * sigma)  # the inverse of the shift
    assert float(uniform.min()) >= 0
    assert float(uniform.max()) < 1
    # The mean of 4000 uniform numbers deviates by 0.0046; the share of dropped captions by 0.0068.
    assert float(uniform.mean()) == pytest.approx(0.5, abs=0.025)
    assert float(draw.drop_caption_B.float().mean()) == pytest.approx(0.25, abs=0.035)
    unshifted = step_draw(0, 0, settings.model_copy(update={"shift": 1.0})).timestep_B / 1000
    torch.testing.assert_close(uniform, unshifted)


def test_the_learning_rate_warms_up_and_stays() -> None:
    settings = Finetune(steps=100, learning_rate=2.0, warmup_share=0.05)
    rates = [learning_rate(step, settings) for step in range(100)]
    assert rates[:6] == pytest.approx([2 / 6, 4 / 6, 1.0, 8 / 6, 10 / 6, 2.0])
    assert set(rates[6:]) == {2.0}
    assert learning_rate(0, Finetune(steps=10, learning_rate=2.0, warmup_share=0.0)) == 2.0


def test_a_number_of_warm_up_steps_counts_before_their_share() -> None:
    settings = Finetune(steps=100, learning_rate=2.0, warmup_share=0.5, warmup_steps=3)
    assert [learning_rate(step, settings) for step in range(5)] == pytest.approx([0.5, 1.0, 1.5, 2.0, 2.0])
    assert learning_rate(0, settings.model_copy(update={"warmup_steps": 0})) == 2.0


def test_stratified_timesteps_have_one_in_each_equal_part_in_random_order() -> None:
    settings = Finetune(batch_size=16, shift=1.0, timesteps="stratified")
    draws = np.stack([(step_draw(0, step, settings).timestep_B / 1000).numpy() for step in range(400)])
    assert (np.sort(np.floor(draws * 16), axis=1) == np.arange(16)).all()
    assert len({tuple(np.argsort(draw)) for draw in draws}) == 400
    # The place within a part is uniform: its mean over 6400 numbers deviates by 0.0036; that of a part in one place of the batch by 0.23.
    assert np.mod(draws * 16, 1).mean() == pytest.approx(0.5, abs=0.02)
    assert np.mod(draws * 16, 1).std() == pytest.approx(12**-0.5, abs=0.02)
    np.testing.assert_allclose(np.floor(draws * 16).mean(0), 7.5, atol=1.2)


def test_logit_normal_timesteps_have_normal_logits_and_are_shifted_afterwards() -> None:
    settings = Finetune(batch_size=4000, shift=1.0, sampling="logit_normal")
    sigma = step_draw(0, 0, settings).timestep_B.double() / 1000
    logit = torch.log(sigma / (1 - sigma))
    assert stats.kstest(logit.numpy(), "norm").pvalue > 0.01
    shifted = step_draw(0, 0, settings.model_copy(update={"shift": 3.0})).timestep_B.double() / 1000
    torch.testing.assert_close(shifted, 3 * sigma / (1 + 2 * sigma), rtol=1e-5, atol=1e-6)
    uniform = step_draw(0, 0, settings.model_copy(update={"sampling": "uniform"})).timestep_B.double() / 1000
    torch.testing.assert_close(torch.special.ndtr(logit), uniform, rtol=1e-4, atol=1e-4)
    both = settings.model_copy(update={"timesteps": "stratified"})
    logit = torch.logit(step_draw(0, 0, both).timestep_B.double() / 1000)
    assert torch.floor(torch.special.ndtr(logit) * 8).long().bincount(minlength=8)[:8].tolist() == pytest.approx([500] * 8, abs=2)


def test_with_ema_the_weights_end_as_the_mean_of_those_after_each_step() -> None:
    decay, steps = 0.7, 4
    model, averaged = build_model(), build_model()
    seen: list[dict[str, torch.Tensor]] = []

    def keep(_step: int, _loss: float) -> None:
        seen.append({name: value.detach().double().clone() for name, value in model.transformer.named_parameters()})

    plain = SETTINGS.model_copy(update={"steps": steps})
    losses = finetune(model, BY_SHAPE, CLIPS.__getitem__, plain, training=0, on_step=keep)
    with_ema = finetune(averaged, BY_SHAPE, CLIPS.__getitem__, plain.model_copy(update={"ema": decay}), training=0)
    assert with_ema == losses, "the mean does not enter the training"
    weights = [decay ** (steps - 1 - step) for step in range(steps)]
    for name, value in averaged.transformer.named_parameters():
        expected = sum(weight * each[name] for weight, each in zip(weights, seen, strict=True)) / sum(weights)
        torch.testing.assert_close(value.detach().double(), expected, rtol=1e-6, atol=1e-7)
        assert not torch.equal(value.detach().double(), seen[-1][name])


def test_the_mean_of_bfloat16_weights_is_taken_in_float32() -> None:
    layer = torch.nn.Linear(1, 1, bias=False).bfloat16()
    weights = MasterWeights(layer.parameters())
    mean = RunningMean(weights.masters, 0.5)
    for value in (1.0, 1.001, 1.002):  # bfloat16 cannot tell them apart
        weights.masters[0].data.fill_(value)
        mean.add()
    mean.write_back()
    assert weights.masters[0].item() == pytest.approx((0.25 * 1.0 + 0.5 * 1.001 + 1.002) / 1.75, abs=1e-7)
    weights.write_back()
    assert layer.weight.item() == 1.0


@pytest.mark.parametrize("ema", [None, 0.7])
def test_a_watched_training_has_the_same_bits(ema: float | None) -> None:
    """The watcher runs the model, as it does to measure a loss."""
    settings = SETTINGS.model_copy(update={"ema": ema})
    plain, watched = build_model(), build_model()
    losses = finetune(plain, BY_SHAPE, CLIPS.__getitem__, settings, training=0)

    def watch(_step: int, _has_mean: bool) -> None:
        latents, prompt = CLIPS["a"]
        with torch.no_grad():
            watched.predict(latents[None], torch.tensor([500.0]), repeated(prompt, 1))

    every_second = settings.model_copy(update={"eval_every": 2})
    assert finetune(watched, BY_SHAPE, CLIPS.__getitem__, every_second, training=0, watch=watch) == losses
    assert state(watched) == state(plain)


def test_it_is_watched_at_the_start_every_few_steps_and_at_the_end_with_the_mean_of_its_weights_too() -> None:
    decay = 0.7
    model = build_model()
    name, parameter = next(iter(model.transformer.named_parameters()))
    seen: list[tuple[int, bool]] = []
    after_step, means = [], {}

    def watch(step: int, has_mean: bool) -> None:
        seen.append((step, has_mean))
        if has_mean:
            means[step] = parameter.detach().double().clone()

    def keep(_step: int, _loss: float) -> None:
        after_step.append(parameter.detach().double().clone())

    settings = SETTINGS.model_copy(update={"steps": 5, "eval_every": 2, "ema": decay})
    finetune(model, BY_SHAPE, CLIPS.__getitem__, settings, training=0, on_step=keep, watch=watch)
    assert seen == [(0, False), (2, False), (2, True), (4, False), (4, True), (5, False), (5, True)]
    for steps, mean in means.items():
        weights = [decay ** (steps - 1 - step) for step in range(steps)]
        expected = sum(weight * each for weight, each in zip(weights, after_step, strict=False)) / sum(weights)
        torch.testing.assert_close(mean, expected, rtol=1e-6, atol=1e-7, msg=lambda text: f"{name}: {text}")
    assert torch.equal(parameter.detach().double(), means[5]), "it ends with that mean"


def test_bfloat16_weights_are_the_same_to_the_bit_after_their_mean_was_in_place() -> None:
    layer = torch.nn.Linear(3, 2).bfloat16()
    weights = MasterWeights(layer.parameters())
    mean = RunningMean(weights.masters, 0.5)
    for value in (1.0, 1.001, 3.0):
        weights.masters[0].data.fill_(value)
        mean.add()
    weights.write_back()
    before = [each.detach().clone() for each in (*layer.parameters(), *weights.masters)]
    with mean.in_place(weights):
        assert (layer.weight == torch.tensor((0.25 * 1.0 + 0.5 * 1.001 + 3.0) / 1.75).bfloat16()).all()
    assert all(torch.equal(*pair) for pair in zip(before, (*layer.parameters(), *weights.masters), strict=True))


def test_every_clip_is_seen_equally_often_in_batches_of_one_shape() -> None:
    batches = Batches(BY_SHAPE, training=0)
    taken = [batches.take(step_draw(0, step, SETTINGS).group, 3) for step in range(400)]
    assert all(len({clip in BY_SHAPE[WIDE] for clip in batch}) == 1 for batch in taken)
    times = {clip: sum(batch.count(clip) for batch in taken) for clip in "abcdefgh"}
    # 1200 rows over 8 clips: 150 each; 400 choices of a shape move the 2 long clips by 13 each.
    assert all(abs(number - 150) < 5 * 13 for number in times.values())
    assert max(times[clip] for clip in "bcdfgh") - min(times[clip] for clip in "bcdfgh") <= 1


def test_each_pass_is_a_new_seeded_shuffle() -> None:
    stream = shuffled_forever(list("abcdefgh"), training=3)
    passes = ["".join(next(stream) for _ in range(8)) for _ in range(3)]
    assert all(sorted(order) == list("abcdefgh") for order in passes)
    assert len(set(passes)) == 3
    again = shuffled_forever(list("hgfedcba"), training=3)
    assert "".join(next(again) for _ in range(8)) == passes[0], "the order of the list does not matter"


def test_small_updates_of_bfloat16_weights_add_up() -> None:
    layer = torch.nn.Linear(1, 1, bias=False).bfloat16()
    with torch.no_grad():
        layer.weight.fill_(1.0)
    weights = MasterWeights(layer.parameters())
    for _ in range(64):
        weights.masters[0].grad = None
        layer.weight.grad = torch.ones_like(layer.weight)
        weights.take_gradients()
        assert layer.weight.grad is None
        with torch.no_grad():
            weights.masters[0] -= 2.0**-12 * weights.masters[0].grad  # far below the 2^-8 between neighbouring weights
        weights.write_back()
    assert layer.weight.item() == 1.0 - 2.0**-6


def test_the_gradients_of_micro_batches_add_up_in_float32() -> None:
    layer = torch.nn.Linear(1, 1, bias=False).bfloat16()
    weights = MasterWeights(layer.parameters())
    for part in (1.0, 2.0**-12):
        layer.weight.grad = torch.full_like(layer.weight, part)
        weights.take_gradients()
    assert weights.masters[0].grad is not None
    assert weights.masters[0].grad.item() == 1.0 + 2.0**-12


def test_a_loss_that_is_not_finite_stops_training_and_names_the_step() -> None:
    def read(clip_id: str):
        latents, prompt = CLIPS[clip_id]
        return (latents * float("inf") if clip_id == "d" else latents), prompt

    with pytest.raises(GateFailed, match=r"step \d: the loss is nan.*finetune.learning_rate"):
        finetune(build_model(), {WIDE: ["d"]}, read, SETTINGS, training=0)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    return save_tiny_wan(tmp_path_factory.mktemp("model") / "wan")


def test_publishes_a_diffusers_pipeline_for_each_training(tmp_path: Path, tiny: Path) -> None:
    ws = make_workspace(tmp_path, tiny, seeds=2)
    base = load_model(ws.config.model, threads=1)
    before = state(base)
    publication = publish_checkpoint(ws, "motive")
    assert state(base) == before, "the shared base model was trained in place"
    assert load_model(ws.config.model, threads=1) is base
    records = load_records(publication.path)
    assert [(record["training"], len(record["losses"]), record["clips"]) for record in records] == [(0, 3, 4), (1, 3, 4)]
    weights = []
    for training in (0, 1):
        pipeline = WanPipeline.from_pretrained(checkpoint_folder(publication.path, training))
        weights.append({name: value.numpy().tobytes() for name, value in pipeline.transformer.state_dict().items()})
        loaded = load_model(ws.config.model, threads=1, path=checkpoint_folder(publication.path, training))
        assert state(loaded) == weights[-1]
    assert weights[0] != weights[1]
    assert weights[0] != before
    assert publication.facts["steps"] == 3
    assert publication.facts["trainings"] == 2
    assert publication.facts["first_loss"] == pytest.approx(np.mean([record["losses"] for record in records]))
    assert publication.preview.stat().st_size > 1000


def test_arms_with_the_same_clips_share_a_training_and_a_new_one_adds_to_the_old(tmp_path: Path, tiny: Path) -> None:
    ws = make_workspace(tmp_path, tiny)
    first = publish_checkpoint(ws, "motive")
    assert first.counts.computed == 1
    same = publish_checkpoint(ws, "random")
    assert (same.counts.computed, same.counts.reused) == (0, 1)
    assert same.data_version == first.data_version
    other = publish_checkpoint(ws, "no_mask")
    assert other.counts.computed == 1
    assert other.data_version != first.data_version
    more = make_workspace(tmp_path, tiny, seeds=2)
    assert publish_checkpoint(more, "motive").counts.reused == 1
    longer = make_workspace(tmp_path, tiny, steps=4)
    assert publish_checkpoint(longer, "motive").counts.computed == 1


def test_gradient_checkpointing_gives_the_same_training(tmp_path: Path, tiny: Path) -> None:
    plain = publish_checkpoint(make_workspace(tmp_path, tiny, root="plain"), "motive")
    saving = publish_checkpoint(make_workspace(tmp_path, tiny, root="saving", checkpointing=True), "motive")
    losses = [load_records(publication.path)[0]["losses"] for publication in (plain, saving)]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)


def test_a_subset_without_latents_stops_the_arm(tmp_path: Path, tiny: Path) -> None:
    ws = make_workspace(tmp_path, tiny)
    publish_table(ws, "curated_subset/motive", "subset", {"clip_id": clip_names(1, 99), "rank": [1]})
    with pytest.raises(GateFailed, match="1 clips of its subset have no latents"):
        publish_checkpoint(ws, "motive")


SCRIPT = """
import sys
from motive_pipeline.config import load_config
from motive_pipeline.storage.workspace import Workspace
from motive_pipeline.training.finetune import publish_checkpoint
publish_checkpoint(Workspace(load_config(sys.argv[1])), "full")
"""


@pytest.mark.slow
def test_a_killed_run_repeats_only_the_training_it_was_in(tmp_path: Path, tiny: Path) -> None:
    steps = 12
    calm = publish_checkpoint(make_workspace(tmp_path, tiny, root="calm", seeds=2, steps=steps), "full")
    ws = make_workspace(tmp_path, tiny, root="killed", seeds=2, steps=steps)
    work = ws.root / "work" / "finetune"
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(tmp_path / "killed.yaml")], cwd=Path(__file__).parents[2])
    while not (finished := list(work.glob("*/[!.]*/files.json"))):
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not ws.has_published("finetuned_checkpoint/full")
    assert [json.loads(file.with_name("training.json").read_text())["training"] for file in finished] == [0]
    publication = publish_checkpoint(ws, "full")
    assert (publication.counts.computed, publication.counts.reused) == (1, 1)
    assert publication.data_version == calm.data_version, "the weights are not those of an undisturbed run"
    losses = [[record["losses"] for record in load_records(p.path)] for p in (calm, publication)]
    assert losses[0] == losses[1]
