"""VBench as a child process: the protocol, what can go wrong, and that only new videos are measured. With a stand-in for the package."""

import hashlib
import http.server
import json
import os
import shutil
import threading
from pathlib import Path

import pytest

from motive_pipeline.cli import main
from motive_pipeline.config import NON_COMMERCIAL, VBENCH_DIMENSIONS, parse_config
from motive_pipeline.errors import ConfigError, GateFailed, MotiveError
from motive_pipeline.evaluation.stage import publish_eval_scores
from motive_pipeline.evaluation.vbench.child import VBenchFailed
from motive_pipeline.evaluation.vbench.dimensions import DIMENSIONS, VBENCH_METRICS, Weight
from motive_pipeline.evaluation.vbench.environment import LOCK, build_environment, environment_folder, require_interpreter
from motive_pipeline.evaluation.vbench.measure import checked, measure_videos
from motive_pipeline.evaluation.vbench.weights import fetch_weights, needed_weights
from motive_pipeline.graph.metrics import FLICKERING, METRICS
from motive_pipeline.report.provenance_tables import plain_settings, versions_table
from motive_pipeline.storage.workspace import Workspace
from tests.eval_fixtures import copied, with_settings
from tests.vbench_standin import film, make_environment, project, publish_films

TWO = [(0, "one", 0, film(1)), (0, "two", 0, film(2))]


@pytest.fixture(scope="module")
def python(tmp_path_factory) -> Path:
    """An interpreter that has the stand-in."""
    return make_environment(tmp_path_factory.mktemp("vbench") / "venv")


@pytest.fixture
def calls(tmp_path, monkeypatch):
    """What the stand-in was asked so far: [dimension, mode, names, whether it may load more than tensors]."""
    log = tmp_path / "calls.txt"
    monkeypatch.setenv("STANDIN_VBENCH_LOG", str(log))
    return lambda: [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


@pytest.fixture
def flickering(tmp_path, python, calls) -> Workspace:
    """A project that measures the one dimension that needs no weights."""
    return project(tmp_path, {"python": str(python), "dimensions": ["temporal_flickering"], "weights": "weights"})


def lay_out(folder: Path, dimensions) -> None:
    """A file of some bytes for each of the weights."""
    for weight in needed_weights(DIMENSIONS[name] for name in dimensions):
        (folder / weight.file).parent.mkdir(parents=True, exist_ok=True)
        (folder / weight.file).write_text(weight.file)


def test_every_video_is_measured_by_every_dimension_once(tmp_path, python, calls):
    lay_out(tmp_path / "weights", DIMENSIONS)
    ws = project(tmp_path, {"python": str(python), "weights": "weights", "accept_noncommercial": True, "accept_other_weights": True})
    found = measure_videos(ws, "motive", publish_films(ws, TWO))
    assert len(found.table) == 2 * len(DIMENSIONS)
    assert set(found.table["backend"]) == {"vbench"}
    values = found.table.drop_duplicates("metric").set_index("metric")["value"]
    assert values["dynamic_degree"] == 1.0
    assert values["imaging_quality"] == 0.5, "its values are of 0 to 100 in VBench"
    assert [call[0] for call in calls()] == list(VBENCH_DIMENSIONS)
    assert {call[1] for call in calls()} == {"custom_input"}
    assert [call[0] for call in calls() if call[3]] == ["motion_smoothness"], "only where the checkpoint needs it"
    assert found.record["versions"]["vbench"] == "0.1.5"
    assert found.record["fps"] == [16.0]
    assert found.record["num_frames"] == [17]
    made = found.record["dimensions"]["imaging_quality"]
    assert made["versions"] == {"vbench": "0.1.5", "pyiqa": "0.1.16"}
    name = "pyiqa_model/musiq_spaq_ckpt-358bb6af.pth"
    assert made["weights"] == {name: hashlib.sha256(name.encode()).hexdigest()}
    assert name in found.record["other_weights"]


def test_only_new_videos_are_measured_again(flickering, calls):
    first = measure_videos(flickering, "motive", publish_films(flickering, TWO))
    assert (first.counts.computed, first.counts.reused) == (2, 0)
    more = measure_videos(flickering, "motive", publish_films(flickering, [*TWO, (1, "one", 0, film(1)), (1, "two", 0, film(3))]))
    assert (more.counts.computed, more.counts.reused) == (1, 3), "the same video of another training is known"
    assert len(calls()) == 2
    assert more.table["value"].nunique() == 3


def test_other_weights_and_another_version_measure_anew(tmp_path, python, calls):
    lay_out(tmp_path / "weights", ["dynamic_degree"])
    settings = {"dimensions": ["dynamic_degree"], "weights": "weights", "accept_other_weights": True}
    ws = project(tmp_path, settings | {"python": str(python)})
    videos = publish_films(ws, TWO)
    assert measure_videos(ws, "motive", videos).counts.computed == 2
    fingerprint = ws.config.fingerprint("eval_scores")
    (tmp_path / "weights" / DIMENSIONS["dynamic_degree"].weights[0].file).write_text("others")
    assert ws.config.fingerprint("eval_scores") != fingerprint, "replaced weights make the scores stale"
    assert measure_videos(ws, "motive", videos).counts.computed == 2
    newer = make_environment(tmp_path / "newer")
    (old,) = newer.parents[1].glob("lib/*/site-packages/vbench-*.dist-info/METADATA")
    old.write_text("Name: vbench\nVersion: 0.1.6\n")
    ws = project(tmp_path, settings | {"python": str(newer)})
    assert measure_videos(ws, "motive", videos).counts.computed == 2


def test_a_run_commits_as_it_goes(tmp_path, python, calls, monkeypatch):
    ws = project(tmp_path, {"python": str(python), "dimensions": ["temporal_flickering"], "weights": "w"}, commit_rows=2)
    videos = publish_films(ws, [(0, "one", n, film(n)) for n in range(3)])
    assert measure_videos(ws, "motive", videos).counts.computed == 3
    assert [len(names) for _, _, names, _ in calls()] == [2, 1]


@pytest.mark.parametrize(
    ("wrong", "parts"),
    [
        ("crash", ["exit code 1", "CUDA error: the very reason"]),
        ("killed", ["killed by signal 9 (SIGKILL)"]),
        ("no answer", ["succeeded, but its answer cannot be read", "wrote no message"]),
        ("nan", ["1-0.mp4: nan", "None of them was kept"]),
    ],
)
def test_what_the_child_does_wrong_is_one_clear_error(flickering, calls, monkeypatch, wrong, parts):
    monkeypatch.setenv("STANDIN_VBENCH", wrong)
    videos = publish_films(flickering, TWO)
    with pytest.raises(VBenchFailed) as caught:
        measure_videos(flickering, "motive", videos)
    for part in [*parts, "temporal_flickering"]:
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("values", "part"),
    [
        ([["a", 0.5]], "/b.mp4: no value"),
        ([["a", 0.5], ["b", 0.5], ["b", 0.5]], "/b.mp4: 2 values"),
        ([["a", 0.5], ["b", 1.5]], "/b.mp4: 1.5, where 0 to 1 is possible"),
        ([["a", 0.5], ["b", float("inf")]], "/b.mp4: inf"),
        ([["a", 0.5], ["b", 0.5], ["else", 0.5]], "else, which was not sent"),
    ],
)
def test_every_video_must_have_one_value_in_range(values, part):
    look = {"fps": 16.0, "num_frames": 17}
    answer = {"values": values, "seen": {"a": look, "b": look}, "unusable": {}}
    with pytest.raises(VBenchFailed, match=part):
        checked(answer, DIMENSIONS["dynamic_degree"], {"a": Path("/a.mp4"), "b": Path("/b.mp4")})


def test_a_cosine_that_rounds_above_one_is_one():
    answer = {"values": [["a", 1.000003]], "seen": {"a": {"fps": 16.0, "num_frames": 17}}, "unusable": {}}
    assert checked(answer, DIMENSIONS["subject_consistency"], {"a": Path("/a.mp4")})["a"]["value"] == 1.0  # type: ignore[index]


@pytest.mark.slow
def test_a_child_that_hangs_is_stopped_and_leaves_no_process(tmp_path, python, calls, monkeypatch):
    monkeypatch.setenv("STANDIN_VBENCH", "hang")
    ws = project(tmp_path, {"python": str(python), "dimensions": ["temporal_flickering"], "weights": "w", "timeout_s": 10})
    with pytest.raises(VBenchFailed, match=r"longer than evaluate.vbench.timeout_s = 10 s(.|\n)*still loading"):
        measure_videos(ws, "motive", publish_films(ws, TWO))
    left = [path for path in Path("/proc").glob("[0-9]*/cmdline") if str(python).encode() in read(path)]
    assert left == []


def read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # that process has ended meanwhile
        return b""


@pytest.mark.parametrize("content", [b"no video", film(9, num_frames=1)])
def test_a_video_without_enough_frames_is_named(flickering, calls, content):
    videos = publish_films(flickering, [*TWO, (0, "three", 0, content)])
    with pytest.raises(
        GateFailed, match=r"1 of 3 videos cannot be measured; .*2-0.mp4: (no frame|temporal_flickering needs 2 frames, it has 1)"
    ):
        measure_videos(flickering, "motive", videos)
    assert len(calls()[0][2]) == 2, "the others were measured"


def test_two_sampled_frames_are_too_few_for_dynamic_degree(tmp_path, python, calls):
    """VBench would ask for no moving pair at all then, and call a still video moving."""
    lay_out(tmp_path / "weights", ["dynamic_degree"])
    ws = project(tmp_path, {"python": str(python), "dimensions": ["dynamic_degree"], "weights": "weights", "accept_other_weights": True})
    with pytest.raises(GateFailed, match=r"needs 3 frames at every 2\. frame, it has 2"):
        measure_videos(ws, "motive", publish_films(ws, [(0, "one", 0, film(1, num_frames=4))]))


STANDARD = {"dimensions": ["temporal_flickering"], "suite": "standard", "weights": "weights"}
FIVE = [(0, 'a "still" life', n, film(n)) for n in range(5)]


def test_vbenchs_own_suite_is_measured_by_its_own_rules(tmp_path, python, calls):
    ws = project(tmp_path, STANDARD | {"python": str(python)}, generate={"prompts": "prompts.txt", "videos_per_prompt": 5})
    found = measure_videos(ws, "motive", publish_films(ws, [*FIVE, (0, "a dog, running", 0, film(7))]))
    assert len(found.table) == 5, "a dimension is measured on its own prompts"
    assert [call[1:3] for call in calls()] == [["vbench_standard", [f'a "still" life-{n}.mp4' for n in range(5)]]]


def test_a_missing_video_of_the_suite_stops_it(tmp_path, python, calls):
    ws = project(tmp_path, STANDARD | {"python": str(python)}, generate={"prompts": "prompts.txt", "videos_per_prompt": 5})
    with pytest.raises(GateFailed, match=r"lacks 1 of the 5 videos of VBench's suite, 'a \"still\" life-3.mp4'"):
        measure_videos(ws, "motive", publish_films(ws, [each for each in FIVE if each[2] != 3]))


def test_missing_weights_are_named_with_origin_and_licence(tmp_path, python, calls):
    ws = project(tmp_path, {"python": str(python), "weights": "weights", "accept_noncommercial": True})
    with pytest.raises(MotiveError) as caught:
        measure_videos(ws, "motive", publish_films(ws, TWO))
    for part in ("amt_model/amt-s.pth", "CC BY-NC", "https://huggingface.co/lalala125", "PolyForm", "motive fetch vbench --weights"):
        assert part in str(caught.value)
    lay_out(tmp_path / "weights", DIMENSIONS)
    with pytest.raises(MotiveError, match="not the published weights of VBench's networks"):
        measure_videos(ws, "motive", publish_films(ws, TWO))
    assert calls() == []


def test_an_environment_that_is_not_there_or_lacks_a_package_says_what_to_do(tmp_path, python, calls, monkeypatch):
    monkeypatch.setenv("MOTIVE_CACHE", str(tmp_path / "cache"))
    dims = {"dimensions": ["temporal_flickering"], "weights": "w"}
    videos = publish_films(project(tmp_path, dims), TWO)
    with pytest.raises(MotiveError, match="Run `motive fetch vbench`"):
        measure_videos(project(tmp_path, dims), "motive", videos)
    with pytest.raises(ConfigError, match=r"evaluate.vbench.python = .*none.*no such interpreter"):
        measure_videos(project(tmp_path, dims | {"python": "none"}), "motive", videos)
    bare = make_environment(tmp_path / "bare", with_vbench=False)
    with pytest.raises(MotiveError, match="has no package vbench"):
        measure_videos(project(tmp_path, dims | {"python": str(bare), "device": "cpu"}), "motive", videos)
    with pytest.raises(MotiveError, match=r"evaluate.vbench.device = 'cuda:1': torch 2.13.0 of .* finds no such device"):
        measure_videos(project(tmp_path, dims | {"python": str(python), "device": "cuda:1"}), "motive", videos)
    lean = make_environment(tmp_path / "lean")
    shutil.rmtree(next(lean.parents[1].glob("lib/*/site-packages/pyiqa-*")))
    lay_out(tmp_path / "w", ["imaging_quality"])
    settings = {"dimensions": ["imaging_quality"], "weights": "w", "accept_noncommercial": True, "accept_other_weights": True}
    with pytest.raises(MotiveError, match=r"lacks pyiqa \(for imaging_quality\). Install it there; .*lock"):
        measure_videos(project(tmp_path, settings | {"python": str(lean)}), "motive", videos)


def test_networks_that_may_not_be_used_commercially_need_consent():
    base = "clips: {source: demo}\nqueries: {source: demo}\nevaluate: {backend: vbench"
    with pytest.raises(ConfigError, match=r"accept_noncommercial = False: motion_smoothness and imaging_quality .*CC BY-NC"):
        parse_config(base + "}", Path("/somewhere/motive.yaml"))
    parse_config(base + ", vbench: {accept_noncommercial: true}}", Path("/somewhere/motive.yaml"))
    parse_config(base + ", vbench: {dimensions: [dynamic_degree]}}", Path("/somewhere/motive.yaml"))
    with pytest.raises(ConfigError, match="standard needs VBench's own prompts"):
        parse_config(base + ", vbench: {dimensions: [dynamic_degree], suite: standard}}", Path("/somewhere/motive.yaml"))


def test_the_config_names_the_dimensions_that_there_are():
    assert tuple(DIMENSIONS) == VBENCH_DIMENSIONS
    assert tuple(name for name, dimension in DIMENSIONS.items() if dimension.non_commercial) == NON_COMMERCIAL
    assert not {metric.label for metric in VBENCH_METRICS} & set(METRICS), "the stand-ins have other labels"


def test_weights_are_fetched_checked_and_never_overwritten(tmp_path):
    content = b"weights"
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "file").write_bytes(content)
    handler = type("Quiet", (http.server.SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), lambda *args: handler(*args, directory=str(tmp_path / "served")))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        url = f"http://127.0.0.1:{server.server_port}"
        good = Weight(file="a/b.pth", url=f"{url}/file", sha256=hashlib.sha256(content).hexdigest(), megabytes=0.1, licence="MIT")
        assert fetch_weights([good], tmp_path / "w") == 1
        assert fetch_weights([good], tmp_path / "w") == 0
        assert (tmp_path / "w" / "a" / "b.pth").read_bytes() == content
        (tmp_path / "w" / "a" / "b.pth").write_bytes(b"the user's own")
        with pytest.raises(MotiveError, match="Move it away"):
            fetch_weights([good], tmp_path / "w")
        assert (tmp_path / "w" / "a" / "b.pth").read_bytes() == b"the user's own"
        wrong = Weight(file="c.pth", url=f"{url}/file", sha256="0" * 64, megabytes=0.1, licence="MIT")
        with pytest.raises(MotiveError, match="Nothing was kept"):
            fetch_weights([wrong], tmp_path / "w")
        gone = Weight(file="c.pth", url=f"{url}/none", sha256="0" * 64, megabytes=0.1, licence="MIT")
        with pytest.raises(MotiveError, match=r"cannot download .*c\.pth yourself"):
            fetch_weights([gone], tmp_path / "w")
        assert [path.name for path in (tmp_path / "w").iterdir()] == ["a"]
    finally:
        server.shutdown()
        server.server_close()


def test_a_fetched_environment_counts_once_it_is_whole(tmp_path, monkeypatch):
    monkeypatch.setenv("MOTIVE_CACHE", str(tmp_path))
    settings = project(tmp_path, {"dimensions": ["temporal_flickering"]}).config.evaluate.vbench
    accepted = settings.model_copy(update={"accept_noncommercial": True})
    stamps = environment_folder() / "installed"
    stamps.mkdir(parents=True)
    (stamps / "environment.txt").touch()
    with pytest.raises(MotiveError, match="missing or incomplete"):
        require_interpreter(settings)
    (stamps / "packages.txt").touch()
    assert require_interpreter(settings) == environment_folder() / "bin" / "python"
    with pytest.raises(MotiveError, match="missing or incomplete"):
        require_interpreter(accepted)
    monkeypatch.setattr("platform.machine", lambda: "arm64")
    with pytest.raises(MotiveError, match="x86-64 processor, not on Linux arm64"):
        build_environment(accepted)


def test_fetch_tells_what_there_is_and_writes_the_prompts(tmp_path, python, monkeypatch, capsys):
    monkeypatch.setenv("MOTIVE_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "motive.yaml"
    vbench = f"{{python: {python}, weights: weights}}"
    file.write_text(f"clips: {{source: demo}}\nqueries: {{source: demo}}\nevaluate: {{vbench: {vbench}}}\n")
    assert main(["fetch", "vbench", "--config", str(file)]) == 0
    said = capsys.readouterr().out
    for part in (
        "vbench 0.1.5",
        "8 of 8 files of weights are missing",
        "left out",
        "motion_smoothness: the network AMT-S",
        "PolyForm",
        "evaluate.backend is standin",
    ):
        assert part in said
    (prompts,) = (tmp_path / "cache" / "vbench").glob("prompts-*.txt")
    assert prompts.read_text().splitlines() == ['a "still" life', "a dog, running"]
    assert str(prompts) in said


def test_the_document_lists_every_file_of_weights():
    page = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text(encoding="utf-8")
    for weight in needed_weights(DIMENSIONS.values()):
        assert f"| `{weight.file}` | {weight.megabytes:g} | {weight.licence} | <{weight.url}> |" in page


def test_every_package_of_the_lock_is_pinned():
    for file in LOCK.glob("*.txt"):
        lines = [line for line in file.read_text().splitlines() if line and not line.startswith("#")]
        assert all("==" in line for line in lines), file
        assert file.name not in ("packages.txt", "non_commercial.txt") or all("--hash=sha256:" in line for line in lines), file


def test_vbench_stands_beside_the_standins(evaluated, tmp_path, tiny_model, python, calls):
    ws = copied(evaluated, tmp_path, tiny_model)
    vbench = ws.config.evaluate.vbench.model_copy(
        update={"python": python, "dimensions": ("temporal_flickering",), "weights": tmp_path / "weights"}
    )
    ws = with_settings(ws, evaluate=ws.config.evaluate.model_copy(update={"backend": "vbench", "vbench": vbench}))
    before = evaluated.published("eval_scores/motive")
    publication = publish_eval_scores(ws, "motive")
    num_videos = len(ws.published("generated_videos/motive").table("videos"))
    assert publication.counts.computed == num_videos, "VBench's rows, and no row of the stand-ins"
    assert publication.data_version != before.data_version
    per_video = publication.table("per_video")
    assert len(per_video) == len(before.table("per_video")) + num_videos
    flickering = per_video[per_video["metric"] == FLICKERING.name].pivot(
        index=["training", "prompt_index", "n"], columns="backend", values="value"
    )
    assert (flickering["exact"] - flickering["vbench"]).abs().max() < 1e-6
    scores = publication.table("scores").set_index(["metric", "backend", "seed"])
    assert scores.loc[("temporal_flickering", "vbench", -1), "num_videos"] == num_videos
    assert scores.loc[("temporal_flickering", "exact", -1), "num_videos"] == num_videos
    assert publication.facts["VBench"][0]["packages"] == "vbench 0.1.5"
    assert ["vbench (VBench's environment, cpu)", "0.1.5", ""] in versions_table(ws).rows
    assert str(python) not in json.dumps(plain_settings(ws))
    assert publish_eval_scores(ws, "motive").counts.computed == 0
    assert len(calls()) == 1


def test_the_environment_of_the_parent_does_not_leak(flickering, calls, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/nowhere")
    monkeypatch.setenv("PYTHONHOME", "/nowhere")
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    assert measure_videos(flickering, "motive", publish_films(flickering, TWO)).counts.computed == 2
    assert calls()[0][3] == ""
    assert os.environ["PYTHONPATH"] == "/nowhere"
