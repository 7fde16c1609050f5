"""Sources that know their clips' motion are reached by name, and only when they are used."""

import subprocess
import sys

import pandas as pd
import pytest

from motive_pipeline.evaluation import ground_truth
from motive_pipeline.evaluation.ground_truth import LABELLED_SOURCES, GroundTruth, LabelledSource, load_truth, query_motion
from motive_pipeline.graph import resolve_dotted
from motive_pipeline.storage.workspace import Workspace

KNOWN = GroundTruth(motion=pd.Series({"a": "left"}), query_motion="left")


def known(_: object) -> GroundTruth:
    return KNOWN


def known_motion(_: object) -> str:
    return KNOWN.query_motion


def with_sources(ws: Workspace, clips: str, queries: str) -> Workspace:
    sections = {
        name: getattr(ws.config, name).model_copy(update={"source": source}) for name, source in (("clips", clips), ("queries", queries))
    }
    return Workspace(ws.config.model_copy(update=sections))


@pytest.mark.parametrize("name", LABELLED_SOURCES)
def test_every_registered_function_exists(name):
    for function in vars(LABELLED_SOURCES[name]).values():
        assert callable(resolve_dotted(function))


def test_another_source_registers_its_truth_and_it_needs_clips_and_queries_of_that_source(workspace, monkeypatch):
    toy = LabelledSource(truth=f"{__name__}:known", query_motion=f"{__name__}:known_motion", classifier="nowhere:nothing")
    monkeypatch.setitem(ground_truth.LABELLED_SOURCES, "toy", toy)
    assert load_truth(with_sources(workspace, "toy", "toy")) is KNOWN
    assert load_truth(with_sources(workspace, "toy", "folder")) is None
    assert load_truth(with_sources(workspace, "folder", "toy")) is None
    assert load_truth(with_sources(workspace, "demo", "toy")) is None
    assert load_truth(with_sources(workspace, "folder", "folder")) is None
    assert query_motion(with_sources(workspace, "folder", "toy")) == "left"
    assert query_motion(with_sources(workspace, "toy", "folder")) is None


def test_importing_evaluation_and_report_imports_nothing_of_the_demo():
    code = (
        "import sys, motive_pipeline.evaluation.ground_truth, motive_pipeline.evaluation.controls, motive_pipeline.report.verdict;"
        "assert not [name for name in sys.modules if name.startswith('motive_pipeline.demo')]"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
