"""Commands that change nothing, run by somebody who may read a root and not write to it. The group of ``test_graph`` has run that root."""

import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

AS_ROOT = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
"""Root without its right to write where the permissions forbid it."""


def set_writable(folder: Path, *, writable: bool) -> None:
    for path in (folder, *folder.rglob("*")):
        if not path.is_symlink():
            mode = stat.S_IMODE(path.stat().st_mode)
            path.chmod(mode | stat.S_IWUSR if writable else mode & ~(stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH))


@pytest.fixture
def read_only(project):
    """The project's folder, without the right to write to anything in it."""
    if os.geteuid() == 0 and shutil.which(AS_ROOT[0]) is None:
        pytest.skip("root can write anywhere, and there is no setpriv")
    set_writable(project.folder, writable=False)
    yield project
    set_writable(project.folder, writable=True)


def motive(project, *arguments: str, cwd: Path) -> str:
    """What the command prints, run without the right to write to the project."""
    command, *rest = arguments
    environment = {k: v for k, v in os.environ.items() if k not in ("DAGSTER_HOME", "MOTIVE_CONFIG")}
    done = subprocess.run(
        [*(AS_ROOT if os.geteuid() == 0 else []), sys.executable, "-m", "motive_pipeline.cli", command, "--config", str(project.file), *rest],
        capture_output=True, text=True, timeout=300, env=environment, cwd=cwd, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def contents(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(path): (path.lstat().st_size, path.lstat().st_mtime_ns) for path in folder.rglob("*")}


@pytest.mark.slow
def test_commands_that_change_nothing_need_no_right_to_write(project, tmp_path, request):
    project.set("vote.percentile", 80)
    try:
        with_rights = project.motive("plan", "--json").out
        read_only = request.getfixturevalue("read_only")
        before = contents(read_only.folder)
        assert json.loads(motive(read_only, "plan", "--json", cwd=tmp_path)) == json.loads(with_rights) != []
        clip_id = json.loads(motive(read_only, "sql", "SELECT clip_id FROM ranking LIMIT 1", "--format", "json", cwd=tmp_path))[0][
            "clip_id"
        ]
        assert Path(motive(read_only, "path", "latents", cwd=tmp_path).strip()).is_dir()
        assert motive(read_only, "verify", cwd=tmp_path).startswith("nothing is wrong")
        assert "in total" in motive(read_only, "gc", cwd=tmp_path)
        page = tmp_path / f"{clip_id}.html"
        assert f"Page: {page}" in motive(read_only, "explain", clip_id, cwd=tmp_path)
        assert page.exists()
        assert contents(read_only.folder) == before
    finally:
        set_writable(project.folder, writable=True)
        project.set("vote.percentile", 90)


def test_every_file_of_a_root_may_be_read_by_whom_the_umask_allows(project):
    """Weights, too, which their library writes for their owner only."""
    mask = os.umask(0o022)
    os.umask(mask)
    files = [path for path in project.workspace.root.rglob("*") if path.is_file()]
    assert any(path.suffix == ".safetensors" and "finetuned_checkpoint" in path.parts for path in files)
    assert [path for path in files if path.stat().st_mode & 0o666 != 0o666 & ~mask] == []


def test_no_column_of_a_published_table_is_without_a_type(project):
    for file in project.workspace.root.rglob("*.parquet"):
        assert not [field.name for field in pq.read_schema(file) if pa.types.is_null(field.type)], file
