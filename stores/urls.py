"""URLs that fsspec reads: which are taken, and what a driver's exceptions mean.

Keys and passwords never stand in a URL: the drivers find them in the ordinary places (environment, profile, role).
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from upath import UPath

Root: TypeAlias = "Path | UPath"

_EXTRAS = {
    **dict.fromkeys(("s3", "s3a"), "s3"),
    **dict.fromkeys(("gs", "gcs"), "gcs"),
    **dict.fromkeys(("abfs", "abfss", "az"), "azure"),
    **dict.fromkeys(("http", "https"), "http"),
}
# A password may hold '/'; what follows a colon may also be a port. The stores name no user at all.
_SECRET = re.compile(r"[^:/]*://[^/@]*:(?!\d*/)[^@]*@|(s3a?|gcs|gs|https?)://[^/]*@|.*\?.*=", re.IGNORECASE | re.DOTALL)
# The drivers' own exceptions, by the names of their classes and bases: botocore, aiohttp, google-auth, azure-core.
_ABSENT = {"NoSuchBucket", "ContainerNotFound"}
_DENIED = {"NoCredentialsError", "PartialCredentialsError", "DefaultCredentialsError", "ClientAuthenticationError"}
_UNREACHED = {"HTTPClientError", "ClientConnectionError", "ClientPayloadError", "ServiceRequestError", "gaierror"}


class UrlError(ValueError):
    """A URL that is not taken; the message says what, got, expected, and the next step."""


def is_url(text: str) -> bool:
    """Tell whether a text is a URL, not a path of this machine."""
    return "://" in text


def parse_root(text: str, what: str) -> Root:
    """The root that a path or URL names. Nothing is opened; of a URL, the driver is loaded.

    what: what lies there, for the messages.

    Raises:
        UrlError: a URL with keys or a password in it, a chained one, of an unknown protocol, or without its driver.
    """
    if not is_url(text):
        return Path(text)
    if "::" in text:  # before anything that repeats it: its parts may hold keys, too
        raise UrlError(
            f"The {what}'s URL is chained (not repeated here: it may hold keys), expected one protocol and a path, "
            "as in s3://bucket/folder: unpack or copy what it leads to, and give that."
        )
    if _SECRET.match(text):
        raise UrlError(
            f"The {what}'s URL holds a user, password or key (so it is not repeated here), expected a bare URL: leave "
            "them to the environment or the profile that the store's own tools read, and revoke what was written down."
        )
    scheme = text.partition("://")[0].lower()
    if not scheme:
        raise UrlError(f"The {what} is {text!r}, expected one protocol and a path, as in s3://bucket/folder.")
    import fsspec
    from upath import UPath

    try:
        fsspec.get_filesystem_class(scheme)
    except ValueError as error:
        raise UrlError(
            f"The {what} is {text!r}, whose protocol is unknown, expected one of fsspec's, such as s3, gs, abfs, "
            "https: correct it."
        ) from error
    except ImportError as error:
        extra = f": pip install 'm2ib-audit[{_EXTRAS[scheme]}]'" if scheme in _EXTRAS else ""
        raise UrlError(f"The {what} is {text!r}, whose driver is not installed: {error}{extra}.") from error
    root = UPath(text)
    # Links are followed, and held inside, on this machine only.
    return Path(root.path) if scheme in ("file", "local") else root


@contextmanager
def translate_errors() -> Iterator[None]:
    """Turn what a driver raises into one of these.

    Raises:
        FileNotFoundError: nothing there.
        PermissionError: not with these credentials, or there are none.
        ConnectionError: the store cannot be reached, or does not answer in time.
        OSError: whatever else the driver says.
    """
    try:
        yield
    except Exception as error:  # each driver has exceptions of its own
        raise _os_error(error) from error


def _os_error(error: Exception) -> OSError:
    # fsspec says of anything behind HTTP that it is not found; why stands in the cause.
    cause = error.__cause__ if isinstance(error, FileNotFoundError) and error.__cause__ else error
    if isinstance(cause, KeyError) or type(cause).__module__.startswith("botocore"):
        cause = error  # a store that knows what it has, and by its answer says so
    said = f"{type(cause).__name__}: {cause}"[:300]
    names = {kind.__name__ for kind in type(cause).__mro__}
    status = getattr(cause, "status", None)
    if isinstance(cause, FileNotFoundError) or names & _ABSENT or status in (404, 410):
        return FileNotFoundError(said)
    if isinstance(cause, PermissionError) or names & _DENIED or status in (401, 403):
        return PermissionError(said)
    if isinstance(cause, (TimeoutError, ConnectionError)) or names & _UNREACHED:
        return ConnectionError(said)
    return OSError(said)
