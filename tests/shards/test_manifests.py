"""The manifest of an indexed Job of shards: its command is one of this package, and its two counts agree."""

import shlex
from pathlib import Path

import yaml

from motive_pipeline.cli import _parser
from motive_pipeline.shards.share import Share

MANIFEST = Path(__file__).parents[2] / "deploy" / "kubernetes" / "shards.yaml"


def test_the_pods_of_the_job_run_every_shard_once():
    job = yaml.safe_load(MANIFEST.read_text(encoding="utf-8"))["spec"]
    (container,) = job["template"]["spec"]["containers"]
    shell, option, line = container["command"]
    assert (shell, option) == ("sh", "-c")
    shares = []
    for index in range(job["completions"]):
        words = shlex.split(line.replace("$((JOB_COMPLETION_INDEX + 1))", str(index + 1)))
        assert words[:2] == ["exec", "motive"]
        shares.append(_parser().parse_args(words[2:]).shard)
    assert shares == [Share(count=job["completions"], number=number) for number in range(1, job["completions"] + 1)]
    mounts = {each["mountPath"] for each in container["volumeMounts"]}
    assert {"/config", "/state"} == mounts
