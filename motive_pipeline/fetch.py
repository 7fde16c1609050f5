"""``motive fetch``: download pinned code and weights (``pinned.py``), only when asked, and check every hash.

Of an archive only the pinned files are kept. The rest never reaches the disk.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import tarfile
import tempfile
import urllib.error
import urllib.parse
import urllib.request
import zlib
from collections.abc import Mapping
from pathlib import Path

from motive_pipeline.errors import MotiveError
from motive_pipeline.pinned import Pinned, cache_folder
from motive_pipeline.progress import Progress
from motive_pipeline.storage import atomic
from motive_pipeline.storage.digest import digest_file

TIMEOUT_S = 60.0
MAX_CODE_BYTES = 2**30
"""The most that an archive of code may have, packed and unpacked. Its size is not pinned."""

_BLOCK = 2**20


def fetch(pinned: Pinned) -> list[Path]:
    """Download every file that is missing or differs from its pinned hash; returns all files. A second call downloads nothing.

    Raises:
        MotiveError: no network, a response other than the file, bytes that differ from the pinned ones, or a folder that cannot be written.
            Files that were there before are kept.
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
    """Raise :class:`MotiveError` unless the pinned code is there and unchanged."""
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


def _is_whole(folder: Path, sha256: Mapping[str, str]) -> bool:
    return all((folder / name).is_file() and digest_file(folder / name) == digest for name, digest in sha256.items())


def _fetch_code(pinned: Pinned) -> None:
    with tempfile.TemporaryDirectory(prefix="motive-fetch-") as scratch:
        archive = Path(scratch) / "code.tar.gz"
        download(pinned.code.url, archive, max_bytes=MAX_CODE_BYTES)
        files = _members(archive, pinned.code.sha256, pinned.code.url)
    for name, content in files.items():
        atomic.write_bytes(pinned.code_folder / name, content)


def _members(archive: Path, sha256: Mapping[str, str], url: str) -> dict[str, bytes]:
    """The bytes of each named file of the archive.

    Raises:
        MotiveError: it is not an archive, or a file is missing or differs from its pinned hash.
    """
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for member in tar:
                if member.offset_data + member.size > MAX_CODE_BYTES:
                    raise MotiveError(
                        f"{url}: the archive unpacks to more than {MAX_CODE_BYTES} bytes, so it is not the pinned code. Nothing was kept."
                    )
                name = member.name.partition("/")[2]
                if member.isfile() and name in sha256 and (stream := tar.extractfile(member)) is not None:
                    found[name] = stream.read()
    except (tarfile.TarError, zlib.error, EOFError, OSError) as error:
        raise MotiveError(f"{url}: what came is not a whole .tar.gz archive ({error}). Try again; a proxy may have answered.") from error
    for name, digest in sha256.items():
        if name not in found:
            raise MotiveError(f"{url}: the archive holds no {name}, so it is not the pinned version.")
        if (actual := hashlib.sha256(found[name]).hexdigest()) != digest:
            raise MotiveError(f"{url}: {name} has the SHA-256 {actual}, not the pinned {digest}. Nothing was kept.")
    return found


def download(
    url: str,
    target: Path,
    *,
    sha256: str | None = None,
    num_bytes: int | None = None,
    max_bytes: int | None = None,
    offline: str | None = None,
) -> None:
    """Download ``url`` to the file ``target``, which appears whole and checked, or not at all. ``num_bytes`` is its size; where only a limit is
    known, ``max_bytes``. The download stops there.

    Raises:
        MotiveError: no network, other or more bytes than expected, or a redirection to another scheme. ``offline`` is the advice for a machine
            without a network.
    """
    most = max_bytes if num_bytes is None else num_bytes
    assert most is not None, "a download has a size or a limit"
    target.parent.mkdir(parents=True, exist_ok=True)
    hashed, size = hashlib.sha256(), 0
    progress = Progress(f"download {url.rpartition('/')[2]}", num_bytes and num_bytes / 1e6, unit="MB")
    temp = atomic.temp_beside(target)
    try:
        with temp.open("wb") as file, _opened(url) as answer:
            while block := answer.read(_BLOCK):
                hashed.update(block)
                size += len(block)
                if size > most:
                    what = f"the {most} bytes that are allowed" if num_bytes is None else f"the pinned {num_bytes} bytes"
                    raise MotiveError(f"{url}: more than {what} came. Nothing was kept; a proxy may have answered.")
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
        temp.unlink(missing_ok=True)


class _SameScheme(urllib.request.HTTPRedirectHandler):
    """Follows a redirection only to an address of the same scheme that a download could start at."""

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        """The request for ``newurl``.

        Raises:
            MotiveError: it has another scheme.
        """
        if urllib.parse.urlsplit(newurl).scheme != req.type or not _is_allowed(newurl):
            raise MotiveError(
                f"{req.full_url}: redirected to {newurl}, but only {req.type} is followed from there. Nothing was kept; try again."
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _is_allowed(url: str) -> bool:
    return url.startswith(("https://", "http://127.0.0.1:"))


def _opened(url: str) -> http.client.HTTPResponse:
    if not _is_allowed(url):
        raise MotiveError(f"{url}: only https is used to download.")
    return urllib.request.build_opener(_SameScheme).open(url, timeout=TIMEOUT_S)
