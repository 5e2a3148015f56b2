"""URLs that fsspec reads: which ones are accepted, and what the exceptions of drivers mean.

A URL never contains keys or passwords: drivers read them from the usual places (environment, profile, role).
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
# A password may contain '/'. After a colon there may also be a port. URLs of object stores contain no user.
_SECRET = re.compile(r"[^:/]*://[^/@]*:(?!\d*/)[^@]*@|(s3a?|gcs|gs|https?)://[^/]*@|.*\?.*=", re.IGNORECASE | re.DOTALL)
# Class names of exceptions of drivers: botocore, aiohttp, google-auth, azure-core.
_NOT_FOUND = {"NoSuchBucket", "ContainerNotFound"}
_ACCESS_DENIED = {
    "NoCredentialsError",
    "PartialCredentialsError",
    "DefaultCredentialsError",
    "ClientAuthenticationError",
}
_UNREACHABLE = {"HTTPClientError", "ClientConnectionError", "ClientPayloadError", "ServiceRequestError", "gaierror"}


class UrlError(ValueError):
    """A URL is not accepted."""


def is_url(text: str) -> bool:
    """Return whether a text is a URL, not a local path."""
    return "://" in text


def parse_root(text: str, what: str) -> Root:
    """Return the root at a path or URL. Nothing is opened, but the driver of a URL is loaded.

    Args:
        text: Path or URL.
        what: What is stored there, for error messages.

    Raises:
        UrlError: The URL contains keys or a password, is chained, or its protocol or driver is unknown.
    """
    if not is_url(text):
        return Path(text)
    if "::" in text:  # before any message that repeats it: its parts may contain keys
        raise UrlError(
            f"The {what}'s URL is chained (not repeated here: it may contain keys), expected one protocol and a "
            "path, as in s3://bucket/folder: unpack or copy the data, and give its URL."
        )
    if _SECRET.match(text):
        raise UrlError(
            f"The {what}'s URL holds a user, password or key (so it is not repeated here), expected a bare URL: put "
            "credentials into the environment or the profile that the store's tools read, and revoke these."
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
    # Symbolic links are followed and checked in local folders only.
    return Path(root.path) if scheme in ("file", "local") else root


@contextmanager
def translate_errors() -> Iterator[None]:
    """Turn exceptions of drivers into errors of the operating system.

    Raises:
        FileNotFoundError: The file or bucket does not exist.
        PermissionError: Credentials are missing or not sufficient.
        ConnectionError: The store cannot be reached, or does not answer in time.
        OSError: Any other error.
    """
    try:
        yield
    except Exception as error:  # each driver has its own exceptions
        raise _to_os_error(error) from error


def _to_os_error(error: Exception) -> OSError:
    # For HTTP, fsspec always raises FileNotFoundError; the reason is its cause.
    cause = error.__cause__ if isinstance(error, FileNotFoundError) and error.__cause__ else error
    if isinstance(cause, KeyError) or type(cause).__module__.startswith("botocore"):
        cause = error  # here FileNotFoundError is right
    text = f"{type(cause).__name__}: {cause}"[:300]
    names = {kind.__name__ for kind in type(cause).__mro__}
    status = getattr(cause, "status", None)
    if isinstance(cause, FileNotFoundError) or names & _NOT_FOUND or status in (404, 410):
        return FileNotFoundError(text)
    if isinstance(cause, PermissionError) or names & _ACCESS_DENIED or status in (401, 403):
        return PermissionError(text)
    if isinstance(cause, (TimeoutError, ConnectionError)) or names & _UNREACHABLE:
        return ConnectionError(text)
    return OSError(text)
