"""A full disk and a root that cannot be written: one clear message, and space or rights are all it takes to go on."""

import errno
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from motive_pipeline.storage.disk_errors import storage_trouble
from tests.assets.test_automation import CATALOGS, make_project
from tests.graph_project import Project

LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.RLIM_INFINITY))
from motive_pipeline.cli import main
sys.exit(main(sys.argv[2:]))
"""
MASKS = '+key:"motion_masks"'


def one_clear_message(err: str, *parts: str) -> None:
    """The last thing said is one ``motive:`` message for each failed asset, with all of ``parts`` and no traceback."""
    assert "Traceback" not in err, err
    said = [line for line in err.splitlines() if line.startswith("motive: ") and " blocked: " not in line]
    assert len(said) == 1, err
    for part in parts:
        assert part in said[0]


@pytest.fixture
def small_disk(tmp_path):
    """Mounts a file system of a given size at a folder; where that is not allowed, the test is skipped."""
    mounted = []

    def mount(folder: Path, size: str) -> Path:
        folder.mkdir()
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True, text=True, check=False
        )
        if done.returncode:
            pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
        mounted.append(folder)
        return folder

    if shutil.which("mount") is None:
        pytest.skip("there is no mount command")
    yield mount
    for folder in mounted:
        subprocess.run(["umount", str(folder)], check=True)


def fill(disk: Path) -> Path:
    """A file that takes all the room there is."""
    filler = disk / "filler"
    with filler.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(disk).free)
    return filler


def project_on(tmp_path: Path, root: Path) -> Project:
    project = make_project(tmp_path)
    project.set("storage.root", str(root))
    return project


@pytest.mark.slow
def test_a_full_disk_ends_in_one_message_and_space_is_all_it_takes(tmp_path, small_disk):
    disk = small_disk(tmp_path / "disk", "24m")
    project = project_on(tmp_path, disk / "root")
    project.run("--select", CATALOGS)
    filler = fill(disk)
    outcome = project.motive("run", "--select", MASKS)
    assert outcome.code == 1
    one_clear_message(outcome.err, str(disk / "root"), "Free some space and run again")
    filler.unlink()
    again = project.run("--select", MASKS)
    assert again.assets["motion_masks"]["rows_computed"] == 6
    assert {run["status"] for run in project.run("--select", MASKS).assets.values()} == {"unchanged"}


@pytest.mark.slow
def test_a_root_on_a_read_only_file_system_says_so(tmp_path, small_disk):
    disk = small_disk(tmp_path / "disk", "24m")
    project = project_on(tmp_path, disk / "root")
    project.run("--select", CATALOGS)
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    outcome = project.motive("run", "--select", MASKS)
    assert outcome.code == 1
    one_clear_message(outcome.err, "cannot write", str(disk / "root"))
    subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
    assert project.run("--select", MASKS).assets["motion_masks"]["status"] == "computed"


@pytest.mark.slow
def test_files_that_may_not_grow_end_in_the_same_message(tmp_path):
    """RLIMIT_FSIZE runs everywhere: a write beyond it fails as one on a full disk does."""
    project = project_on(tmp_path, tmp_path / "root")
    project.run("--select", CATALOGS)
    command = [sys.executable, "-c", LIMITED, "30000", "run", "--config", str(project.file), "--select", MASKS]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 1
    one_clear_message(done.stderr, str(tmp_path / "root"), "Free some space and run again")
    assert project.run("--select", MASKS).assets["motion_masks"]["status"] == "computed"


def test_a_root_below_a_file_says_so(tmp_path):
    (tmp_path / "file").write_text("")
    outcome = project_on(tmp_path, tmp_path / "file" / "root").motive("run")
    assert outcome.code == 1
    one_clear_message(outcome.err, str(tmp_path / "file" / "root"), "storage.root")


ROOT = Path("/data/root")


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        sqlite3.OperationalError("database or disk is full"),
        sqlite3.OperationalError("disk I/O error"),
        RuntimeError("IO Error: Could not write file: No space left on device"),
    ],
)
def test_every_library_s_word_for_a_full_disk_is_known(error):
    wrapped = RuntimeError("while writing a chunk")
    wrapped.__cause__ = error
    for each in (error, wrapped):
        assert "Free some space" in str(storage_trouble(each, ROOT))


def test_a_missing_right_is_the_storage_s_only_below_it():
    mine = OSError(errno.EACCES, "Permission denied", "/data/root/state/run.lock")
    other = OSError(errno.EACCES, "Permission denied", "/home/me/clips/1.mp4")
    assert "cannot write" in str(storage_trouble(mine, ROOT))
    assert storage_trouble(other, ROOT) is None
    assert storage_trouble(ValueError("something else"), ROOT) is None
    assert os.fspath(ROOT) in str(storage_trouble(mine, ROOT))
