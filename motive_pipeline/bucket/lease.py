"""One driver at a time on a root in a bucket: a lease, an object that its owner renews and that is written under conditions only.

Whether a lease has run out is judged by the server's clock alone: the age of the lease object against a probe that is written now. An owner
that could not renew in time knows by its own monotonic clock that it may have lost the lease, and asks before it writes again.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
import uuid
from typing import Any

from motive_pipeline.bucket.client import Bucket, Listed, Tag
from motive_pipeline.bucket.trouble import BucketError, Conflict
from motive_pipeline.errors import MotiveError

log = logging.getLogger(__name__)

KEY, PROBE = "run.lease.json", "run.probe"
LEASE_S = 60.0
_RENEW_EVERY = 1 / 4
_LOOK_EVERY_S = 5.0


class LeaseHeld(MotiveError):
    """Another driver has the lease."""


class LeaseLost(MotiveError):
    """The lease was taken over while this process did not renew it."""


class Lease:
    """The lease of the root in ``bucket``. ``copy`` identifies the working copy: its previous holder is known to be dead when the copy's own lock is
    free, so its lease is taken over at once."""

    def __init__(self, bucket: Bucket, copy: str, lease_s: float = LEASE_S) -> None:
        self.bucket = bucket
        self.copy = copy
        self.lease_s = lease_s
        self.generation = 0
        self._body: dict[str, Any] = {}
        self._tag: Tag | None = None
        self._renewed = 0.0
        self._writing = threading.Lock()
        self._stop = threading.Event()
        self._renewer: threading.Thread | None = None

    @property
    def is_held(self) -> bool:
        """Whether this process took the lease and has not given it back."""
        return self._tag is not None

    @property
    def owner(self) -> str:
        """The random name of this process as the lease's owner; who knows it can borrow the lease (bucket/borrowed_lease.py)."""
        return self._body["owner"]

    def other_holder(self) -> str | None:
        """Who has the lease, in words: another working copy that is at work or was killed with it. None if it was given back."""
        found = self.bucket.get(KEY)
        holder = holder_of(found[0]) if found is not None else {}
        return None if holder.get("released", True) or holder.get("copy") == self.copy else holder_words(holder)

    def acquire(self, *, wait_s: float, who: str) -> None:
        """Take the lease, waiting at most ``wait_s`` seconds. Where nobody holds it, one conditional write takes it, and tells whether these keys may write.

        Raises:
            LeaseHeld: another driver has it; the message names it.
            BucketError: no such bucket, no right to write, wrong keys, no answer.
        """
        deadline = time.monotonic() + wait_s
        logged = False
        while (holder := self._try(who)) is not None:
            if time.monotonic() >= deadline:
                raise LeaseHeld(self._refusal(holder))
            if not logged:
                log.info("%s is in use by %s; waiting for it to end", self.bucket.address, holder_words(holder))
                logged = True
            time.sleep(min(_LOOK_EVERY_S, max(0.05, deadline - time.monotonic())))
        self._stop.clear()
        self._renewer = threading.Thread(target=self._renew_until_stopped, name="lease", daemon=True)
        self._renewer.start()

    def _try(self, who: str) -> dict[str, Any] | None:
        """Take the lease if it is free; else its holder."""
        found = self.bucket.get(KEY)
        holder = holder_of(found[0]) if found is not None else {}
        if found is not None and not holder.get("released") and holder.get("copy") != self.copy:
            holder["age_s"] = age_s(self.bucket, found[1])
            if holder["age_s"] <= holder.get("lease_s", self.lease_s):
                return holder
            log.warning(
                "%s: the lease of %s was not renewed for %.0f s; it is taken over",
                self.bucket.address,
                holder_words(holder),
                holder["age_s"],
            )
        body = {
            "copy": self.copy,
            "generation": holder.get("generation", 0) + 1,
            "host": socket.gethostname(),
            "lease_s": self.lease_s,
            "owner": uuid.uuid4().hex,
            "pid": os.getpid(),
            "released": False,
            "renewals": 0,
            "since": time.strftime("%Y-%m-%d %H:%M:%S"),
            "who": who,
        }
        asked = time.monotonic()
        try:
            self._tag = self._write(body, found[1].tag if found is not None else None)
        except Conflict:  # somebody else was faster
            found = self.bucket.get(KEY)
            return holder_of(found[0]) if found is not None else {}
        self._body, self._renewed, self.generation = body, asked, body["generation"]
        return None

    def _write(self, body: dict[str, Any], old: Tag | None) -> Tag:
        data = json.dumps(body, sort_keys=True, indent=1).encode()
        return self.bucket.create(KEY, data) if old is None else self.bucket.replace(KEY, data, old)

    def _refusal(self, holder: dict[str, Any]) -> str:
        left = max(0.0, holder.get("lease_s", self.lease_s) - holder.get("age_s", 0.0))
        return (
            f"{self.bucket.address} is in use by {holder_words(holder)}. Wait for it to end, or stop it. If that process has died, the root is free in "
            f"{left:.0f} s: its lease is no longer renewed then."
        )

    def check(self) -> None:
        """Make sure that this process still has the lease; a call before each write. Asks the server only when the last renewal is some time ago.

        Raises:
            LeaseLost: it was taken over.
        """
        if self._tag is None:
            raise LeaseLost(f"{self.bucket.address}: this process does not hold the lease")
        if time.monotonic() - self._renewed > self.lease_s / 2:
            self._renew()

    def take_back(self) -> None:
        """Let nobody borrow the lease any longer: its owner has a new name from now on. Raises as :meth:`check`, and BucketError."""
        self._renew(owner=uuid.uuid4().hex)

    def _renew(self, **changed: str) -> None:
        with self._writing:
            if self._tag is None:
                return
            asked = time.monotonic()
            body = self._body | {"renewals": self._body["renewals"] + 1} | changed
            try:
                self._tag = self._write(body, self._tag)
            except Conflict:
                self._tag = None
                found = self.bucket.get(KEY)
                raise LeaseLost(
                    f"{self.bucket.address}: the lease was taken over by {holder_words(holder_of(found[0]) if found else {})}, because this process did not "
                    f"renew it for {time.monotonic() - self._renewed:.0f} s. Nothing of the other one's is overwritten. Run again when it has ended."
                ) from None
            self._body, self._renewed = body, asked

    def _renew_until_stopped(self) -> None:
        while not self._stop.wait(self.lease_s * _RENEW_EVERY):
            try:
                self._renew()
            except LeaseLost as error:
                log.error("%s", error)
                return
            except BucketError as error:
                log.warning("the lease could not be renewed: %s", error)

    def release(self) -> None:
        """Give the lease back. One that cannot be given back runs out."""
        self._stop.set()
        with self._writing:
            tag, self._tag = self._tag, None
            if tag is None:
                return
            try:
                self._write(self._body | {"released": True}, tag)
            except BucketError as error:
                log.warning("the lease could not be given back, and runs out in %.0f s: %s", self.lease_s, error)


def age_s(bucket: Bucket, lease: Listed) -> float:
    """Seconds since the lease in ``bucket`` was renewed, by the server's clock."""
    bucket.put(PROBE, uuid.uuid4().bytes)
    probe = bucket.head(PROBE)
    return (probe.modified - lease.modified).total_seconds() if probe is not None else 0.0


def holder_of(data: bytes) -> dict[str, Any]:
    """What a lease says of its holder; empty if it is none."""
    try:
        found = json.loads(data)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def holder_words(holder: dict[str, Any]) -> str:
    """The holder of a lease, in words."""
    who = f"{holder['who']}, " if holder.get("who") else ""
    return f"{who}process {holder.get('pid', '?')} on {holder.get('host', '?')}, since {holder.get('since', '?')}"
