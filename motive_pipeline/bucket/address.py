"""Addresses of object storage: ``s3://bucket/prefix``, ``gs://...``, ``az://...``. ``file://`` is a local folder.

A setting that is a path by type keeps such an address as a path (``s3:/bucket/prefix``); :func:`address_of` reads it back.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

SCHEMES = ("s3", "gs", "az")
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/+(.*)", re.DOTALL)
_CREDENTIALS = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]+:/+)[^/]*@")


@dataclass(frozen=True)
class Address:
    """A bucket, and the prefix below which everything lies. ``prefix`` begins and ends without a slash; '' is the whole bucket."""

    scheme: str
    bucket: str
    prefix: str

    @property
    def url(self) -> str:
        """``s3://bucket/prefix``."""
        return f"{self.scheme}://{self.bucket}" + (f"/{self.prefix}" if self.prefix else "")

    def below(self, key: str) -> Address:
        """The address ``key`` below this one."""
        return Address(self.scheme, self.bucket, f"{self.prefix}/{key}".strip("/"))

    def __str__(self) -> str:
        return self.url


def is_url(text: str) -> bool:
    """Whether ``text`` has the form of a URL, usable or not."""
    return _URL.fullmatch(text) is not None


def address_of(path: str | Path | None) -> Address | None:
    """The address that a checked setting holds (:func:`path_or_address`); None for a path on this machine."""
    match = _URL.fullmatch(str(path)) if path is not None else None
    if match is None or match[1] not in SCHEMES:
        return None
    bucket, _, prefix = match[2].partition("/")
    return Address(match[1], bucket, prefix.strip("/"))


def path_or_address(value: object) -> object:
    """A setting as it was written, checked: an address of object storage stays, ``file://`` becomes its path, all else is as it was.

    Raises:
        ValueError: a URL with credentials, a query, no bucket, or of another kind. The message never has the credentials.
    """
    if not isinstance(value, str | Path) or not is_url(text := str(value)):
        return value
    parts = urlsplit(text)
    scheme = parts.scheme.lower()
    if "@" in parts.netloc:
        raise ValueError(
            "has credentials in it, and the settings are copied into logs and reports. Take them out, and give them by the environment "
            "(AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY), by a profile (AWS_PROFILE), or by the machine's own role"
        )
    if parts.query or parts.fragment:
        raise ValueError("must have nothing behind ? or #; an endpoint is set by AWS_ENDPOINT_URL, a region by AWS_REGION")
    if scheme == "file":
        if parts.netloc not in ("", "localhost") or not parts.path.startswith("/"):
            raise ValueError(f"must name an absolute path: file:///{parts.netloc}{parts.path}")
        return Path(unquote(parts.path))
    if scheme not in SCHEMES:
        raise ValueError(f"must be a path, or a URL that begins with {', '.join(f'{each}://' for each in SCHEMES)} or file://")
    if not parts.netloc:
        raise ValueError(f"names no bucket; write {scheme}://BUCKET/FOLDER")
    if any(part in ("", ".", "..") for part in parts.path.strip("/").split("/")) and parts.path.strip("/"):
        raise ValueError("must not have empty parts, . or .. in its folder")
    return Path(f"{scheme}:/{parts.netloc}{parts.path.rstrip('/')}")


def without_credentials(value: object) -> object:
    """``value`` as a message may show it."""
    return _CREDENTIALS.sub(r"\1***@", value) if isinstance(value, str) else value
