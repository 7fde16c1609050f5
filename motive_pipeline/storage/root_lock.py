"""The lock of a root in a bucket: the working copy's own lock, then the lease in the bucket; the copy follows the bucket before it is given out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from motive_pipeline.bucket.borrowed_lease import BorrowedLease
from motive_pipeline.bucket.lease import LeaseHeld, LeaseLost
from motive_pipeline.bucket.trouble import BucketError
from motive_pipeline.storage.lock import FileLock, Locked
from motive_pipeline.storage.root_copy import RUN_LOCK, RootCopy

log = logging.getLogger(__name__)


class BucketLock(FileLock):
    """The lock of ``copy``; ``then`` is called after the copy has followed the bucket."""

    def __init__(self, copy: RootCopy, then: Callable[[], None]) -> None:
        super().__init__(copy.root / RUN_LOCK, f"the working copy of {copy.bucket.address}")
        self.copy = copy
        self._then = then

    def acquire(self, *, wait_s: float = 0.0, who: str = "", to_read: bool = False) -> None:
        """As :meth:`FileLock.acquire`. One that only reads takes no lease.

        Raises:
            Locked: a process of this machine holds it, or one of another machine has the lease; the message names it.
            BucketError: the bucket cannot be used: this is the first write, before anything costly.
        """
        is_first = self.path not in self._held
        if is_first and to_read:
            self.copy.follow(self._then)
        super().acquire(wait_s=wait_s, who=who, to_read=to_read)
        if not is_first or to_read:
            return
        try:
            self.copy.own_lease.acquire(wait_s=wait_s, who=who)
            self.copy.begin(self._then)
        except LeaseHeld as error:
            super().release()
            raise Locked(str(error)) from None
        except BaseException:
            self.copy.lease.release()
            super().release()
            raise

    def release(self) -> None:
        """As :meth:`FileLock.release`. At last the score tables are written to the bucket, and the lease is given back."""
        try:
            if self._held[self.path][1] == 1 and self.copy.lease.is_held:
                self._end()
        finally:
            super().release()

    @contextmanager
    def lent(self) -> Iterator[str]:
        """Let another process write in the stead of this one, which holds the lock and waits: before the block the bucket gets all that the copy has, and
        after it the copy follows the bucket. Gives the name that the other one borrows the lease by."""
        self.copy.end()
        try:
            yield self.copy.own_lease.owner
        finally:
            self.copy.own_lease.take_back()
            self.copy.begin(self._then)

    @contextmanager
    def borrowed(self, owner: str, when_lost: Callable[[LeaseLost], None], *, wait_s: float = 0.0, who: str = "") -> Iterator[None]:
        """Write in the stead of the driver ``owner``, which has lent the lease (:meth:`lent`). A driver on this machine has the copy's own lock as well.

        Raises:
            LeaseLost: it does not have the lease.
            Locked: a process of this machine works on the copy, and it is not the driver.
        """
        with ExitStack() as held:
            lease = BorrowedLease(self.copy.bucket, owner, when_lost)
            held.callback(lease.release)
            if lease.copy != self.copy.own_lease.copy:
                held.enter_context(FileLock(self.path, self.what).holding(wait_s=wait_s, who=who))
            self.copy.lease = lease
            held.callback(setattr, self.copy, "lease", self.copy.own_lease)
            self.copy.begin(self._then)
            yield
            self._end()  # of a process that fails or is stopped, the driver's copy brings the score tables up to what was published

    def _end(self) -> None:
        try:
            self.copy.end()
        except (BucketError, LeaseLost) as error:
            log.warning("the score tables in the bucket are behind, and follow with the next run: %s", error)
        finally:
            self.copy.lease.release()
