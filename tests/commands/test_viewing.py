"""The command `motive view`: it prints its address, a second viewer takes another port, and Ctrl-C ends it."""

import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request

import pytest

from motive_pipeline import cli
from motive_pipeline.commands import viewing
from motive_pipeline.errors import MotiveError
from motive_pipeline.storage.workspace import Workspace
from motive_pipeline.view.serve import listening_socket
from tests.curation.test_arms import MAGNITUDE_PX, NAMES, publish_clips, publish_rankings

SETTINGS = "clips: {source: demo}\nqueries: {source: demo}\nsubset: {share: 0.1}\narms: [full, no_mask, motive]\n"


@pytest.fixture
def config(make_config):
    config = make_config(SETTINGS)
    config.file.write_text(SETTINGS)
    return config


def start(config, *arguments: str) -> tuple[subprocess.Popen, str]:
    """The running command, and the address that it printed."""
    command = [sys.executable, "-m", "motive_pipeline.cli", "view", "--no-open", "--config", str(config.file), *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    return process, process.stdout.readline().strip()


def test_the_browser_is_led_to_the_address_by_a_file_that_only_this_user_can_read(tmp_path):
    address = "http://127.0.0.1:8700/?token=abc&x=1"
    for _ in range(2):  # a later viewer replaces what an earlier one has left
        page = viewing._page_that_leads_to(address, tmp_path / "view")
    assert page.stat().st_mode & 0o777 == 0o600
    assert 'content="0; url=http://127.0.0.1:8700/?token=abc&amp;x=1"' in page.read_text()
    assert [file.name for file in page.parent.iterdir()] == ["open-8700.html"]


@pytest.mark.slow
def test_two_viewers_have_a_port_and_a_token_each_and_ctrl_c_ends_them(config):
    ws = Workspace(config)
    publish_clips(ws, NAMES, MAGNITUDE_PX)
    publish_rankings(ws)
    running = [start(config), start(config)]
    try:
        found = [re.fullmatch(r"http://127\.0\.0\.1:(\d+)/\?token=([\w-]{32})", address) for _, address in running]
        assert all(found), [process.stderr.read() for process, _ in running if process.poll() is not None]
        assert found[0][1] != found[1][1]
        assert found[0][2] != found[1][2]
        for _, address in running:
            assert b"motive view" in urllib.request.urlopen(address, timeout=20).read()
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(f"http://127.0.0.1:{found[0][1]}/?token={found[1][2]}", timeout=20)
    finally:
        for (process, _), number in zip(running, (signal.SIGINT, signal.SIGTERM), strict=True):
            process.send_signal(number)
    for (process, _), code in zip(running, (130, 143), strict=True):
        _, said = process.communicate(timeout=30)
        assert process.returncode == code
        assert [line for line in said.splitlines() if line.startswith("motive: ")] == [
            "motive: stopped; committed results are kept, and the next run continues from there"
        ]


def test_a_root_without_scores_ends_with_1_and_says_what_to_do(config, monkeypatch, capsys):
    monkeypatch.setattr(cli, "load_config", lambda: config)
    assert cli.main(["view", "--no-open"]) == 1
    assert re.search(r"motive: no scores below .* yet\. Run `motive run` first\.", capsys.readouterr().err)


def test_a_port_that_is_taken_is_named_if_it_was_asked_for():
    with listening_socket(None) as taken, pytest.raises(MotiveError, match=r"--port \d+ is taken"):
        listening_socket(taken.getsockname()[1])


def test_the_first_page_does_not_wait_for_torch():
    code = "import sys, motive_pipeline.view.serve; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
