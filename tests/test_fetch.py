"""``motive fetch``: from a server, checked by hash, whole or not at all, and only what is missing."""

import dataclasses
import hashlib
import io
import os
import socket
import stat
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from motive_pipeline import cli, pinned
from motive_pipeline.config import AllTracker, Motion
from motive_pipeline.errors import MotiveError
from motive_pipeline.fetch import fetch
from motive_pipeline.motion.trackers import build_tracker
from motive_pipeline.pinned import ALLTRACKER, Pinned, PinnedCode, PinnedFile
from motive_pipeline.progress import Progress
from tests.alltracker_standin import MISC, NET, write_weights

CODE = {"LICENSE": b"take it\n", "nets/alltracker.py": NET.encode(), "utils/misc.py": MISC.encode()}


def archive(files: dict[str, bytes]) -> bytes:
    """As GitHub makes it: everything below one folder, more than is wanted, and members that would leave the folder."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        for name, content in (files | {"demo.py": b"boom", "../../escape.py": b"boom"}).items():
            member = tarfile.TarInfo(f"alltracker-c1ed462/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        link = tarfile.TarInfo("alltracker-c1ed462/nets/blocks.py")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    return stream.getvalue()


class Server(ThreadingHTTPServer):
    """Serves ``answers`` by path and counts what was asked for."""

    def __init__(self, answers: dict[str, bytes]) -> None:
        self.answers, self.asked, self.cut_after = answers, [], None
        self.redirects: dict[str, str] = {}
        super().__init__(("127.0.0.1", 0), Handler)

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}{path}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        if self.path in self.server.redirects:
            self.send_response(302)
            self.send_header("Location", self.server.redirects[self.path])
            self.end_headers()
            return
        content = self.server.answers.get(self.path)
        if content is None:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: self.server.cut_after])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(tmp_path):
    weights = write_weights(tmp_path / "served.pth").read_bytes()
    found = Server({"/code.tar.gz": archive(CODE), "/weights.pth": weights})
    thread = threading.Thread(target=found.serve_forever, daemon=True)
    thread.start()
    yield found
    found.shutdown()
    found.server_close()


@pytest.fixture
def pins(server, tmp_path, monkeypatch) -> Pinned:
    """The pins of what the server has, in AllTracker's place."""
    monkeypatch.setenv("MOTIVE_CACHE", str(tmp_path / "cache"))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    weights = server.answers["/weights.pth"]
    return dataclasses.replace(
        ALLTRACKER,
        code=PinnedCode(
            url=server.url("/code.tar.gz"), sha256={name: hashlib.sha256(content).hexdigest() for name, content in CODE.items()}
        ),
        files={
            "alltracker.pth": PinnedFile(url=server.url("/weights.pth"), sha256=hashlib.sha256(weights).hexdigest(), num_bytes=len(weights))
        },
    )


def files_below(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def test_the_pins_are_addresses_of_one_commit_and_whole_hashes():
    assert ALLTRACKER.code.url.startswith("https://github.com/aharley/alltracker/archive/c1ed462")
    assert all(file.url.startswith("https://huggingface.co/aharley/alltracker/resolve/") for file in ALLTRACKER.files.values())
    assert all("/main/" not in file.url for file in ALLTRACKER.files.values())
    hashes = [*ALLTRACKER.code.sha256.values(), *(file.sha256 for file in ALLTRACKER.files.values())]
    assert all(len(digest) == 64 and int(digest, 16) for digest in hashes)


def test_fetching_brings_the_pinned_files_and_no_others_and_a_second_time_asks_for_nothing(pins, server, tmp_path):
    found = fetch(pins)
    assert files_below(tmp_path / "cache") == [
        "alltracker/c1ed462/alltracker.pth", "alltracker/c1ed462/code/LICENSE",
        "alltracker/c1ed462/code/nets/alltracker.py", "alltracker/c1ed462/code/utils/misc.py",
    ]  # fmt: skip
    assert sorted(found) == sorted(path for path in (tmp_path / "cache").rglob("*") if path.is_file())
    assert not list(tmp_path.rglob("escape.py"))
    assert fetch(pins) == found
    assert {stat.S_IMODE(file.stat().st_mode) for file in found} == {0o666 & ~_umask()}, (
        "others may use the cache as far as the umask allows"
    )
    assert server.asked == ["/code.tar.gz", "/weights.pth"]


def test_the_command_prints_where_things_lie_and_the_tracker_takes_them_from_there(pins, monkeypatch, capsys):
    monkeypatch.setitem(pinned.PINNED, "alltracker", pins)
    monkeypatch.setattr("motive_pipeline.motion.alltracker.ALLTRACKER", pins)
    assert cli.main(["fetch", "alltracker"]) == 0
    out = capsys.readouterr().out
    assert str(pins.folder / "alltracker.pth") in out
    assert "as pinned (code and weights: MIT" in out
    found = build_tracker(Motion(tracker="alltracker", alltracker=AllTracker()), device="cpu", threads=1)
    frames = np.zeros((3, 128, 128, 3), dtype=np.uint8)
    frames[1:, ..., 0] = 6
    assert found.track(frames).displacement_THW2[2, 0, 0].tolist() == [6, 0]


def test_fetched_files_that_were_changed_are_not_used_and_fetching_mends_them(pins, server, monkeypatch):
    monkeypatch.setattr("motive_pipeline.motion.alltracker.ALLTRACKER", pins)
    motion = Motion(tracker="alltracker", alltracker=AllTracker())
    fetch(pins)
    code, weights = pins.code_folder / "nets" / "alltracker.py", pins.folder / "alltracker.pth"
    code.write_text("raise SystemExit('harm')")
    with pytest.raises(MotiveError, match=r"the code of alltracker is not in .* or not as pinned"):
        build_tracker(motion, device="cpu", threads=1)
    fetch(pins)
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    with pytest.raises(MotiveError, match=r"alltracker\.pth has the SHA-256 [0-9a-f]{64}, not "):
        build_tracker(motion, device="cpu", threads=1)
    fetch(pins)
    assert build_tracker(motion, device="cpu", threads=1).reference == "first"
    assert server.asked.count("/weights.pth") == 2


@pytest.mark.parametrize(
    ("path", "content", "message"),
    [
        ("/code.tar.gz", archive(CODE | {"utils/misc.py": b"harm"}), r"utils/misc\.py has the SHA-256 [0-9a-f]{64}, not the pinned"),
        ("/code.tar.gz", archive({"LICENSE": CODE["LICENSE"]}), r"the archive holds no nets/alltracker\.py"),
        ("/code.tar.gz", b"<html>log in to the network</html>", r"not a whole \.tar\.gz archive"),
        ("/code.tar.gz", archive(CODE)[:200], r"not a whole \.tar\.gz archive"),
        ("/code.tar.gz", archive(CODE | {"demo.mp4": bytes(2**21)}), r"unpacks to more than 1048576 bytes"),
        ("/weights.pth", b"other", r"5 bytes came, not the pinned \d+"),
        ("/weights.pth", None, r"cannot download .*weights\.pth: HTTP Error 404.*needs a network"),
        ("/code.tar.gz", None, r"cannot download .*code\.tar\.gz: HTTP Error 404"),
    ],
)
def test_what_is_not_as_pinned_is_refused_and_nothing_of_it_is_kept(pins, server, tmp_path, path, content, message, monkeypatch):
    monkeypatch.setattr("motive_pipeline.fetch.MAX_CODE_BYTES", 2**20)
    if content is None:
        del server.answers[path]
    else:
        server.answers[path] = content
    with pytest.raises(MotiveError, match=message):
        fetch(pins)
    kept = files_below(tmp_path / "cache")
    assert kept == ([] if path == "/code.tar.gz" else [f"alltracker/c1ed462/code/{name}" for name in sorted(CODE)])


def test_bytes_of_the_right_number_and_another_hash_are_refused(pins, server, tmp_path):
    server.answers["/weights.pth"] = bytes(len(server.answers["/weights.pth"]))
    with pytest.raises(MotiveError, match=r"what came has the SHA-256 [0-9a-f]{64}, not the pinned"):
        fetch(pins)
    assert not list((tmp_path / "cache").rglob("*.pth"))


def test_a_download_stops_at_its_size(pins, server, tmp_path, monkeypatch):
    server.answers["/weights.pth"] += bytes(2**25)
    blocks = []
    step = Progress.step
    monkeypatch.setattr(Progress, "step", lambda self, count=1, **further: (blocks.append(count), step(self, count, **further))[1])
    with pytest.raises(MotiveError, match=rf"more than the pinned {pins.files['alltracker.pth'].num_bytes} bytes came"):
        fetch(pins)
    assert not list((tmp_path / "cache").rglob("*.pth"))
    assert sum(blocks) < 2, "two megabytes of 33 at most"


def test_a_download_of_unknown_size_has_a_limit(pins, server, tmp_path, monkeypatch):
    monkeypatch.setattr("motive_pipeline.fetch.MAX_CODE_BYTES", 100)
    with pytest.raises(MotiveError, match=r"code\.tar\.gz: more than the 100 bytes that are allowed came"):
        fetch(pins)
    assert files_below(tmp_path / "cache") == []


@pytest.mark.parametrize(
    "to", ["ftp://127.0.0.1/weights.pth", "https://127.0.0.1:1/weights.pth", "file:///etc/passwd", "http://localhost:1/x"]
)
def test_a_redirection_to_another_scheme_or_to_http_elsewhere_is_not_followed(pins, server, tmp_path, to):
    server.redirects["/weights.pth"] = to
    with pytest.raises(MotiveError, match="redirect"):
        fetch(pins)
    assert not list((tmp_path / "cache").rglob("*.pth"))


def test_a_redirection_of_the_same_scheme_is_followed(pins, server):
    server.answers["/moved"] = server.answers.pop("/weights.pth")
    server.redirects["/weights.pth"] = server.url("/moved")
    assert (pins.folder / "alltracker.pth") in fetch(pins)


def test_a_connection_that_breaks_leaves_nothing(pins, server, tmp_path):
    server.cut_after = 100
    with pytest.raises(MotiveError):
        fetch(pins)
    assert files_below(tmp_path / "cache") == []


def test_without_a_network_the_message_says_what_to_do_and_what_is_there_stays(pins, server, monkeypatch, capsys):
    fetch(pins)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        nobody = listener.getsockname()[1]
    (pins.folder / "alltracker.pth").unlink()
    away = dataclasses.replace(
        pins, files={"alltracker.pth": dataclasses.replace(pins.files["alltracker.pth"], url=f"http://127.0.0.1:{nobody}/weights.pth")}
    )
    monkeypatch.setitem(pinned.PINNED, "alltracker", away)
    assert cli.main(["fetch", "alltracker"]) == 1
    assert "needs a network (or a proxy in https_proxy)" in capsys.readouterr().err
    assert (pins.code_folder / "nets" / "alltracker.py").is_file()


def test_a_cache_that_cannot_be_written_is_named(pins, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("MOTIVE_CACHE", str(tmp_path / "file"))
    with pytest.raises(MotiveError, match=r"cannot write to .*file/alltracker/c1ed462: Not a directory\. MOTIVE_CACHE"):
        fetch(pins)


def test_only_https_is_used(pins):
    with pytest.raises(MotiveError, match="only https"):
        fetch(dataclasses.replace(pins, code=dataclasses.replace(pins.code, url="file:///etc/passwd")))


def test_the_cache_is_the_users_and_can_be_moved(monkeypatch, tmp_path):
    monkeypatch.delenv("MOTIVE_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert pinned.cache_folder() == tmp_path / "motive-pipeline"
    monkeypatch.setenv("MOTIVE_CACHE", str(tmp_path / "mine"))
    assert pinned.cache_folder() == tmp_path / "mine"
