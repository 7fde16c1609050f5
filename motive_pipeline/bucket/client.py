"""A bucket, below one prefix: reads, lists in pages, and writes under conditions. Calls block; all may be made from many threads.

Every call ends in bounded time (:class:`Limits`). A write whose reply was lost is read back: it counts if the object has what was written.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from motive_pipeline.bucket.address import Address
from motive_pipeline.bucket.trouble import Absent, BucketError, Conflict, explained
from motive_pipeline.errors import ConfigError, MotiveError

if TYPE_CHECKING:
    from obstore.store import ObjectStore

PAGE = 1000
PART_BYTES = 2**23
"""Larger objects travel in parts of this size, so that the time-out of one request fits slow networks, too."""

_PARTS_AT_ONCE = 4
_LISTED = "list what is there"


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How long one request may take, how often it is tried again, and for how long altogether."""

    request_s: float = 20.0
    connect_s: float = 5.0
    retries: int = 5
    retry_for_s: float = 60.0


class Tag(NamedTuple):
    """Identifies one version of an object."""

    e_tag: str | None
    version: str | None


class Listed(NamedTuple):
    """An object without its content. ``modified`` is by the server's clock."""

    key: str
    size: int
    tag: Tag
    modified: datetime


class Bucket:
    """The objects below ``address``; keys are relative to it."""

    def __init__(self, address: Address, limits: Limits | None = None) -> None:
        """Opens no connection.

        Raises:
            ConfigError: the package that it needs is not installed.
            BucketError: no credentials where the address needs them named.
        """
        self.address = address
        self._obstore = require_obstore(address)
        with self._asking("open it"):
            self._store = _store(address, limits or Limits())

    def __repr__(self) -> str:
        return f"Bucket({self.address.url})"

    def get(self, key: str) -> tuple[bytes, Listed] | None:
        """The content and what describes it; None if there is no such object."""
        try:
            with self._asking(f"read {key}"):
                result = self._obstore.get(self._store, key)
                return bytes(result.bytes()), _listed(result.meta, key)
        except Absent:
            return None

    def head(self, key: str) -> Listed | None:
        """The object without its content; None if there is none."""
        try:
            with self._asking(f"look at {key}"):
                return _listed(self._obstore.head(self._store, key), key)
        except Absent:
            return None

    def pages(self, prefix: str = "") -> Iterator[list[Listed]]:
        """Every object whose key begins with the folder ``prefix``, up to :data:`PAGE` at a time; only one page is in memory. Without those that only stand
        for a folder."""
        with self._asking(_LISTED):
            pages = iter(self._obstore.list(self._store, prefix or None, chunk_size=PAGE))
        while True:
            with self._asking(_LISTED):
                page = next(pages, None)
            if page is None:
                return
            found = [_listed(each, each["path"]) for each in page]
            yield [each for each, after in zip_longest(found, found[1:]) if each.size or not self._is_folder(each.key, after)]

    def _is_folder(self, key: str, after: Listed | None) -> bool:
        """Whether an empty object only stands for a folder, as consoles and mounted buckets make them: its key ends with a slash, which the client drops."""
        if after is not None and after.key.startswith(f"{key}/"):
            return True
        return "." not in key.rpartition("/")[2] and self.head(key) is None

    def download(self, key: str, path: Path, size: int) -> Listed:
        """Write the object's content to the new file ``path``; what describes it. ``size`` is what a listing said. An object that changes
        meanwhile is not mixed.

        Raises:
            Absent: there is no such object.
            Conflict: it was changed meanwhile.
        """
        with path.open("xb") as file, self._asking(f"read {key}"):
            if size <= PART_BYTES:
                result = self._obstore.get(self._store, key)
                for chunk in result.stream(min_chunk_size=2**20):
                    file.write(chunk)
                return _listed(result.meta, key)
            first = self._obstore.get(self._store, key, options={"range": (0, PART_BYTES)})
            found = _listed(first.meta, key)
            file.write(first.bytes())
            for start in range(PART_BYTES, found.size, PART_BYTES):
                part = {"range": (start, min(start + PART_BYTES, found.size)), "if_match": found.tag.e_tag}
                file.write(self._obstore.get(self._store, key, options=part).bytes())
            return found

    def create(self, key: str, data: bytes) -> Tag:
        """Write an object that must not exist yet; one with this very content counts as written.

        Raises:
            Conflict: there is another one.
        """
        return self._conditional(key, data, "create")

    def replace(self, key: str, data: bytes, old: Tag) -> Tag:
        """Write an object that must still be the version ``old``; one with this very content counts as written.

        Raises:
            Conflict: it has another content, or has gone.
        """
        return self._conditional(key, data, {name: value for name, value in old._asdict().items() if value is not None})

    def _conditional(self, key: str, data: bytes, mode: Any) -> Tag:
        try:
            with self._asking(f"write {key}"):
                return _tag(self._obstore.put(self._store, key, data, mode=mode, use_multipart=False))
        except BucketError as error:
            if isinstance(error, Absent):  # a condition on an object that has gone
                raise Conflict(str(error)) from error
            if error.is_certain and not isinstance(error, Conflict):
                raise
            found = None
            with suppress(BucketError):
                found = self.get(key)
            if found is not None and found[0] == data:
                return found[1].tag
            raise

    def put(self, key: str, content: bytes | Path) -> Tag:
        """Write an object, or replace it, whatever it was. A large file travels in parts."""
        with self._asking(f"write {key}"):
            return _tag(self._obstore.put(self._store, key, content, chunk_size=PART_BYTES, max_concurrency=_PARTS_AT_ONCE))

    def copy(self, source: str, target: str) -> Tag:
        """Let the server copy an object over another; at most 5 GB on S3."""
        with self._asking(f"copy {source} to {target}"):
            self._obstore.copy(self._store, source, target, overwrite=True)
            return _tag(self._obstore.head(self._store, target))

    def delete(self, keys: Sequence[str]) -> None:
        """Delete the objects that exist."""
        for first in range(0, len(keys), PAGE):
            try:
                with self._asking("delete what is not needed any more"):
                    self._obstore.delete(self._store, list(keys[first : first + PAGE]))
            except Absent:
                continue

    @contextmanager
    def _asking(self, doing: str) -> Iterator[None]:
        try:
            yield
        except (MotiveError, StopIteration):
            raise
        except (self._obstore.exceptions.BaseError, FileNotFoundError, PermissionError, ValueError) as error:
            raise explained(error, self.address, doing) from None  # the client's text may quote headers


def require_obstore(address: Address) -> Any:
    """The client library.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import obstore
        import obstore.exceptions
    except ImportError as error:
        raise ConfigError(f"{address} needs the package obstore: pip install 'motive-pipeline[s3]'") from error
    return obstore


def _store(address: Address, limits: Limits) -> ObjectStore:
    from obstore.store import from_url

    endpoint = next((os.environ[name] for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT") if os.environ.get(name)), "")
    further: dict[str, Any] = {}
    if address.scheme == "s3" and (provider := _profile()) is not None:
        further["credential_provider"] = provider
    return from_url(
        address.url,
        client_options={
            "allow_http": endpoint.startswith("http://"),
            "timeout": timedelta(seconds=limits.request_s),
            "connect_timeout": timedelta(seconds=limits.connect_s),
        },
        retry_config={"max_retries": limits.retries, "retry_timeout": timedelta(seconds=limits.retry_for_s)},
        **further,
    )


def _profile() -> Any:
    """What reads the keys of a profile; None where the environment has keys, or there is no profile."""
    if os.environ.get("AWS_ACCESS_KEY_ID"):
        return None
    files = (os.environ.get("AWS_SHARED_CREDENTIALS_FILE") or "~/.aws/credentials", os.environ.get("AWS_CONFIG_FILE") or "~/.aws/config")
    if not os.environ.get("AWS_PROFILE") and not any(Path(file).expanduser().is_file() for file in files):
        return None
    try:
        from obstore.auth.boto3 import Boto3CredentialProvider
    except ImportError as error:
        raise ConfigError("keys of a profile (AWS_PROFILE, ~/.aws) need the package boto3: pip install 'motive-pipeline[s3]'") from error
    from botocore.exceptions import BotoCoreError

    try:
        return Boto3CredentialProvider()
    except BotoCoreError as error:
        raise ConfigError(f"the AWS profile cannot be used: {error}") from error


def _listed(meta: Any, key: str) -> Listed:
    return Listed(key, meta["size"], _tag(meta), meta["last_modified"])


def _tag(meta: Any) -> Tag:
    e_tag = meta["e_tag"]
    if e_tag and not e_tag.endswith('"'):  # as Azure's listings have it, and its replies have not
        e_tag = f'"{e_tag}"'
    return Tag(e_tag, meta["version"])
