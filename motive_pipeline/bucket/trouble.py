"""What a person reads when object storage refuses or does not answer. The texts have the server's code and message, and no keys."""

from __future__ import annotations

import re

from motive_pipeline.bucket.address import Address
from motive_pipeline.errors import MotiveError

_CODE = re.compile(r"<Code>([^<]+)</Code>")
_MESSAGE = re.compile(r"<Message>([^<]+)</Message>")
_STATUS = re.compile(r"status code: (\d{3})")
_QUERY = re.compile(r"\?[^\s)\"'`]+")
"""Behind a URL's ? may stand a token of Azure."""

_CREDENTIAL_WAYS = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile (AWS_PROFILE), or the machine's own role"
_WRONG_KEYS = (
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "InvalidToken",
    "ExpiredToken",
    "TokenRefreshRequired",
    "AuthorizationHeaderMalformed",
)


class BucketError(MotiveError):
    """Object storage refused, or did not answer. ``is_certain`` is false if what was asked for may have been done all the same."""

    def __init__(self, message: str, *, is_certain: bool = True) -> None:
        super().__init__(message)
        self.is_certain = is_certain


class Conflict(BucketError):
    """The object is not as the condition says: somebody else has written it."""


class Absent(BucketError):
    """There is no such object."""


def explained(error: Exception, address: Address, doing: str) -> BucketError:
    """``error`` of the client, which arose while ``doing`` ("write x"), for a person."""
    text = str(error)
    kind = type(error).__name__
    code = found[1] if (found := _CODE.search(text)) else ""
    said = found[1].strip().rstrip(".") if (found := _MESSAGE.search(text)) else ""
    status = found[1] if (found := _STATUS.search(text)) else ""
    where = f"{address.scheme}://{address.bucket}"
    server = f"The server says: {code}{f' ({said})' if said else ''}." if code else ""
    if code == "NoSuchBucket":
        return BucketError(f"{where}: there is no such bucket. Create it, or correct the URL {address}.")
    if "RequestTimeTooSkewed" in text:
        return BucketError(f"{address}: the clock of this machine differs from the server's. {server} Set the clock.")
    if code in _WRONG_KEYS or kind == "UnauthenticatedError":
        return BucketError(f"{address}: the keys are not accepted. {server} They come from {_CREDENTIAL_WAYS}.")
    if "169.254.169.254" in text or "metadata.google.internal" in text or "Received None from session" in text:
        return BucketError(f"{address}: no credentials were found. Give {_CREDENTIAL_WAYS}.")
    if kind == "PermissionDeniedError" or code in ("AccessDenied", "Forbidden") or status == "403":
        return BucketError(
            f"{address}: no permission to {doing}. {server or 'The server answers 403.'} Give these keys the right, or use others."
        )
    if kind in ("AlreadyExistsError", "PreconditionError") or status in ("409", "412"):
        return Conflict(f"{address}: somebody else has written there meanwhile, so it was not overwritten ({doing})")
    if isinstance(error, FileNotFoundError):
        return Absent(f"{address}: there is nothing to {doing}")
    if status in ("429", "503") or code == "SlowDown":
        return BucketError(
            f"{address}: the server asks to slow down, and did so until there was no time left to {doing}. {server} Run again later."
        )
    if "kind: Connect" in text:
        return BucketError(f"{address}: no server answers at {_endpoint(text)}: cannot {doing}. Check the network and AWS_ENDPOINT_URL.")
    if "kind: Timeout" in text:
        return BucketError(
            f"{address}: {_endpoint(text)} did not answer in time: cannot {doing}. Check the network, and run again.", is_certain=False
        )
    first = _QUERY.sub("?...", " ".join(text.split("\n\nDebug source")[0].split()))
    return BucketError(f"{address}: cannot {doing}. {server or first[:300]}", is_certain=False)


def _endpoint(text: str) -> str:
    found = re.search(r"(https?://[^/\s]+)", text)
    return found[1] if found else "the endpoint"
