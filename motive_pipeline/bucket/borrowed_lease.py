"""The lease of a driver elsewhere, in whose stead this process writes while the driver waits for it, such as a job of a cluster.

The driver goes on renewing. This process only looks, before each write: it stops when the driver has taken the lease back, and well before another driver
could take it over.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from motive_pipeline.bucket.client import Bucket
from motive_pipeline.bucket.lease import KEY, LEASE_S, LeaseLost, age_s, holder_of, holder_words
from motive_pipeline.bucket.trouble import BucketError

log = logging.getLogger(__name__)

_LOOK_EVERY = 1 / 6
_SAFE_SHARE = 2 / 3
"""Writing stops when no renewal was seen for this share of the lease. One is seen at most ``_LOOK_EVERY`` of the lease after it was made."""


class BorrowedLease:
    """The lease of the root in ``bucket`` that the driver ``owner`` has (:attr:`Lease.owner`). ``when_lost`` is called once, in a thread, if it is lost:
    the driver has ended, or has lost it itself.

    Raises:
        LeaseLost: that driver does not have the lease, or did not renew it for two thirds of its time.
        BucketError: the bucket cannot be read.
    """

    def __init__(self, bucket: Bucket, owner: str, when_lost: Callable[[LeaseLost], None]) -> None:
        self.bucket = bucket
        self.owner = owner
        self.copy = ""
        """The working copy of the driver."""
        self._when_lost = when_lost
        self._renewals = -1
        self._seen = float("-inf")
        self._lease_s = LEASE_S
        self._looking = threading.Lock()
        self._stop = threading.Event()
        self._look()
        threading.Thread(target=self._look_until_stopped, name="borrowed lease", daemon=True).start()

    @property
    def is_held(self) -> bool:
        """Whether this process may write: it has not given the lease back."""
        return not self._stop.is_set()

    def check(self) -> None:
        """Make sure that this process may still write; a call before each write.

        Raises:
            LeaseLost: the driver has taken it back, has it no longer, or no longer renews it.
            BucketError: the bucket cannot be read.
        """
        if self._stop.is_set():
            raise LeaseLost(f"{self.bucket.address}: this process does not hold the lease")
        self._look()

    def release(self) -> None:
        """Write no longer. The driver keeps the lease."""
        self._stop.set()

    def _look(self) -> None:
        """Read the lease. Raises LeaseLost if it is not the driver's, or was not renewed lately."""
        with self._looking:
            asked = time.monotonic()
            found = self.bucket.get(KEY)
            holder: dict[str, Any] = holder_of(found[0]) if found is not None else {}
            if holder.get("owner") != self.owner or holder.get("released", True):
                now = "nobody has it" if holder.get("released", True) else f"{holder_words(holder)} has it"
                raise LeaseLost(
                    f"{self.bucket.address}: the run that this process works for has taken the lease back, or has lost it: {now} now"
                )
            if holder["renewals"] != self._renewals:
                # An age is asked for once; later renewals are seen soon after they are made.
                age = age_s(self.bucket, found[1]) if found is not None and self._renewals < 0 else 0.0
                self._renewals, self._seen, self._lease_s = holder["renewals"], asked - age, holder["lease_s"]
                self.copy = holder["copy"]
            if (silent_s := time.monotonic() - self._seen) > self._lease_s * _SAFE_SHARE:
                raise LeaseLost(f"{self.bucket.address}: {holder_words(holder)} did not renew its lease for {silent_s:.0f} s")

    def _look_until_stopped(self) -> None:
        while not self._stop.wait(self._lease_s * _LOOK_EVERY):
            try:
                self._look()
            except LeaseLost as error:
                if not self._stop.is_set():
                    log.error("%s", error)
                    self._when_lost(error)
                return
            except BucketError as error:
                log.warning("the lease could not be read: %s", error)
