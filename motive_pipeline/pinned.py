"""Third-party code and weights that nothing here ships: fetched when asked (``motive fetch``), by pinned address, checked by pinned hash.

They lie in one folder for each user, not in a project: ``$MOTIVE_CACHE``, else ``motive-pipeline`` below ``$XDG_CACHE_HOME`` or ``~/.cache``.
Of an archive of code only the files that are named here are kept; the rest never reaches the disk.
"""

from __future__ import annotations

import functools
import hashlib
import http.client
import os
import tarfile
import tempfile
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from motive_pipeline.errors import MotiveError
from motive_pipeline.progress import Progress
from motive_pipeline.storage import atomic
from motive_pipeline.storage.digest import digest_file

TIMEOUT_S = 60.0
_BLOCK = 2**20


@dataclass(frozen=True, kw_only=True)
class PinnedFile:
    """One file: where it is, the SHA-256 of its bytes, and how many there are."""

    url: str
    sha256: str
    num_bytes: int


@dataclass(frozen=True, kw_only=True)
class PinnedCode:
    """Files of an archive (``.tar.gz``), by their path below its one top folder, each with the SHA-256 of its bytes.

    The archive itself has no hash: GitHub makes it anew when asked, and promises nothing about its compression.
    """

    url: str
    sha256: Mapping[str, str]

    @property
    def content(self) -> str:
        """64 hex digits over all of its files."""
        return hashlib.sha256("".join(f"{name}\0{digest}\0" for name, digest in sorted(self.sha256.items())).encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Pinned:
    """What ``motive fetch <name>`` brings: code into ``<version>/code``, each of ``files`` beside it. ``terms`` is the licence, in words."""

    name: str
    version: str
    code: PinnedCode
    files: Mapping[str, PinnedFile]
    terms: str

    @property
    def folder(self) -> Path:
        """Where it lies once it is fetched."""
        return cache_folder() / self.name / self.version

    @property
    def code_folder(self) -> Path:
        """The root of its code: what goes onto the import path."""
        return self.folder / "code"


ALLTRACKER = Pinned(
    name="alltracker",
    version="c1ed462",
    code=PinnedCode(
        url="https://github.com/aharley/alltracker/archive/c1ed462b7cfe9b4c6d07d8880ae5ed103b0848e0.tar.gz",
        sha256={
            "LICENSE": "ab740abe5c34e17963fe4d6a1f68a3dcd35bbc05dc520cf08d7a062c0ea13c79",
            "nets/alltracker.py": "42a203dfe1f4f6f035570c0c97a83172bd769591fa5930deda422ddac42f7807",
            "nets/blocks.py": "0c347f79b53367e0a99fb8d5bbe65346def904940f07dd361349af1da4eb0672",
            "utils/misc.py": "4ac64b714891789b21f1776292c7b9bd580031950f8df4398c9718922e7dbe90",
        },
    ),
    files={
        "alltracker.pth": PinnedFile(
            url="https://huggingface.co/aharley/alltracker/resolve/c8ba31225828cab9ec512d0627f0f826e641a877/alltracker.pth",
            sha256="ffd9ebcfb6d206d594b646999a150540f92c049cf9b2bf940facf7123f62aa1d",
            num_bytes=66_005_722,
        )
    },
    terms="code and weights: MIT, Adam W. Harley and others",
)

PINNED: dict[str, Pinned] = {ALLTRACKER.name: ALLTRACKER}
"""By the name that ``motive fetch`` takes."""


def cache_folder() -> Path:
    """Where fetched things lie."""
    if chosen := os.environ.get("MOTIVE_CACHE"):
        return Path(chosen).expanduser().absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser().absolute() / "motive-pipeline"


def fetch(pinned: Pinned) -> list[Path]:
    """Download what is missing or differs from its pinned hash; gives every file. A second call downloads nothing.

    Raises:
        MotiveError: no network, an answer other than the file, bytes that differ from the pinned ones, or a folder that cannot be written.
            What was there before stays.
    """
    try:
        return _fetched(pinned)
    except OSError as error:
        raise MotiveError(f"cannot write to {pinned.folder}: {error.strerror}. MOTIVE_CACHE names another folder.") from error


def _fetched(pinned: Pinned) -> list[Path]:
    if not _is_whole(pinned.code_folder, pinned.code.sha256):
        _fetch_code(pinned)
    for name, file in pinned.files.items():
        target = pinned.folder / name
        if not (target.is_file() and digest_file(target) == file.sha256):
            download(file.url, target, sha256=file.sha256, num_bytes=file.num_bytes)
    return [*(pinned.code_folder / name for name in pinned.code.sha256), *(pinned.folder / name for name in pinned.files)]


def require_fetched(pinned: Pinned) -> None:
    """The pinned code is there and unchanged.

    Raises:
        MotiveError: it is not.
    """
    if not _is_whole(pinned.code_folder, pinned.code.sha256):
        raise MotiveError(
            f"the code of {pinned.name} is not in {pinned.code_folder}, or not as pinned. Run `motive fetch {pinned.name}` (it needs a network), "
            f"or point motion.{pinned.name}.repo to a checkout of yours."
        )


def require_sha256(file: Path, sha256: str, what: str) -> None:
    """Raise :class:`MotiveError` unless the file has this hash; ``what`` names it in the message."""
    found = digest_file(file)
    if found != sha256:
        raise MotiveError(f"{what}: {file} has the SHA-256 {found}, not {sha256}. It is another file, or a damaged one.")


def code_content(folder: Path) -> str:
    """64 hex digits over the Python files in ``nets/`` and ``utils/`` of a checkout: their names and bytes."""
    files = sorted(path for part in ("nets", "utils") for path in (folder / part).rglob("*.py"))
    listed = "".join(f"{path.relative_to(folder).as_posix()}\0{file_content(path)}\0" for path in files)
    return hashlib.sha256(listed.encode()).hexdigest()


def file_content(file: Path) -> str:
    """The SHA-256 of the file's bytes; a file that has not changed since is not read again in this process."""
    status = file.stat()
    return _remembered(file, status.st_size, status.st_mtime_ns, status.st_ino)


@functools.lru_cache(maxsize=256)
def _remembered(file: Path, *_: int) -> str:
    return digest_file(file)


def _is_whole(folder: Path, sha256: Mapping[str, str]) -> bool:
    return all((folder / name).is_file() and digest_file(folder / name) == digest for name, digest in sha256.items())


def _fetch_code(pinned: Pinned) -> None:
    with tempfile.TemporaryDirectory(prefix="motive-fetch-") as scratch:
        archive = Path(scratch) / "code.tar.gz"
        download(pinned.code.url, archive)
        files = _members(archive, pinned.code.sha256, pinned.code.url)
    for name, content in files.items():
        atomic.write_bytes(pinned.code_folder / name, content)


def _members(archive: Path, sha256: Mapping[str, str], url: str) -> dict[str, bytes]:
    """The named files of the archive, as bytes.

    Raises:
        MotiveError: it is no archive, or a file is missing or not as pinned.
    """
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for member in tar:
                name = member.name.partition("/")[2]
                if member.isfile() and name in sha256 and (stream := tar.extractfile(member)) is not None:
                    found[name] = stream.read()
    except (tarfile.TarError, EOFError, OSError) as error:
        raise MotiveError(f"{url}: what came is no whole .tar.gz archive ({error}). Try again; a proxy may have answered.") from error
    for name, digest in sha256.items():
        if name not in found:
            raise MotiveError(f"{url}: the archive holds no {name}, so it is not the pinned version.")
        if (actual := hashlib.sha256(found[name]).hexdigest()) != digest:
            raise MotiveError(f"{url}: {name} has the SHA-256 {actual}, not the pinned {digest}. Nothing was kept.")
    return found


def download(url: str, target: Path, *, sha256: str | None = None, num_bytes: int | None = None, offline: str | None = None) -> None:
    """The bytes at ``url`` as the file ``target``, which appears whole and checked, or not at all.

    Raises:
        MotiveError: no network, or other bytes than these came; ``offline`` says what to do on a machine without one.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    hashed, size = hashlib.sha256(), 0
    progress = Progress(f"download {url.rpartition('/')[2]}", num_bytes and num_bytes / 1e6, unit="MB")
    descriptor, temp = tempfile.mkstemp(prefix=atomic.TEMP_PREFIX, dir=target.parent)
    try:
        with os.fdopen(descriptor, "wb") as file, _opened(url) as answer:
            while block := answer.read(_BLOCK):
                hashed.update(block)
                size += len(block)
                file.write(block)
                progress.step(len(block) / 1e6)
        if num_bytes is not None and size != num_bytes:
            raise MotiveError(f"{url}: {size} bytes came, not the pinned {num_bytes}. Nothing was kept; try again.")
        if sha256 is not None and hashed.hexdigest() != sha256:
            raise MotiveError(f"{url}: what came has the SHA-256 {hashed.hexdigest()}, not the pinned {sha256}. Nothing was kept.")
        os.replace(temp, target)
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
        raise MotiveError(
            f"cannot download {url}: {error}. `motive fetch` needs a network (or a proxy in https_proxy); on a machine without one, "
            f"{offline or f'copy {cache_folder()} from a machine where it ran'}."
        ) from error
    finally:
        Path(temp).unlink(missing_ok=True)


def _opened(url: str) -> http.client.HTTPResponse:
    if not url.startswith(("https://", "http://127.0.0.1:")):
        raise MotiveError(f"{url}: only https is used to download.")
    return urllib.request.urlopen(url, timeout=TIMEOUT_S)
