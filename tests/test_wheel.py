"""The wheel works without the repository and without make: it holds every file, and runs a whole graph in an empty folder."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
import yaml

from tests.graph_project import SETTINGS

REPOSITORY = Path(__file__).parents[1]
PACKAGES = ("motive_pipeline", "assets")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def _without_clutter(folder: str, names: list[str]) -> set[str]:
    return {name for name in names if name == "__pycache__" or name.startswith(".")}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of a copy of the sources, so that building leaves nothing in the repository."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for package in PACKAGES:
        shutil.copytree(REPOSITORY / package, source / package, symlinks=True, ignore=_without_clutter)
    for name in ("pyproject.toml", "README.md", "LICENSE", "motive.yaml"):
        shutil.copy(REPOSITORY / name, source / name)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(out), str(source)]
    subprocess.run(command, check=True)
    (file,) = out.glob("motive_pipeline-*.whl")
    return file


@pytest.fixture(scope="module")
def motive(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The command of a fresh environment that has the wheel, and borrows the libraries of this one."""
    place = tmp_path_factory.mktemp("environment") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(place)], check=True)
    command = [sys.executable, "-m", "pip", "--python", str(place / "bin" / "python"), "install", "--quiet", "--no-deps", str(wheel)]
    subprocess.run(command, check=True)
    libraries = [path for path in sys.path if Path(path).name == "site-packages"]
    own = Path(sysconfig.get_path("purelib", vars={"base": str(place), "platbase": str(place)}))
    (own / "libraries.pth").write_text("\n".join(libraries) + "\n")
    return place / "bin" / "motive"


def run(command: Path, *arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k not in ("DAGSTER_HOME", "MOTIVE_CONFIG", "PYTHONPATH")}
    return subprocess.run([command, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_the_wheel_holds_every_file_of_the_packages_and_nothing_else(wheel: Path):
    files = {
        path.relative_to(REPOSITORY).as_posix()
        for package in PACKAGES
        for path in (REPOSITORY / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and not path.name.startswith(".")
    }
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert held == files


def test_the_wheel_runs_from_an_empty_folder(motive: Path, tmp_path: Path):
    where = run(
        motive.with_name("python"),
        "-c",
        "import motive_pipeline, assets; print(motive_pipeline.__file__, assets.__file__)",
        folder=tmp_path,
    )
    assert where.stdout.count(str(motive.parents[1])) == 2, where
    looked = run(motive, "doctor", folder=tmp_path)
    assert looked.returncode == 0, looked
    (tmp_path / "motive.yaml").write_text(yaml.safe_dump(SETTINGS))
    done = run(motive, "run", "--json", "--summary", "--quiet", folder=tmp_path)
    assert done.returncode == 0, done.stderr[-4000:]
    assert {asset["status"] for asset in json.loads(done.stdout.splitlines()[-1])["assets"].values()} == {"computed"}
    report = Path(done.stdout.splitlines()[0].removeprefix("Report: "))
    assert report.is_relative_to(tmp_path)
    assert "<html" in report.read_text(encoding="utf-8")
    refused = run(motive, "demo", folder=tmp_path)
    assert refused.returncode == 1
    assert "left as it is" in refused.stderr
