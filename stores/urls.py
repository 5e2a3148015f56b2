"""Checks of paths and fsspec URLs, and translation of the exceptions of fsspec drivers.

A URL must not contain keys or passwords. Drivers read credentials from the environment, a profile or a role.
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
# A password may contain '/'. A colon may also precede a port. URLs of object stores contain no user name. A query or
# fragment may be a token; without '=', a question mark in object storage is part of a pattern such as shard-?.tar.
_SECRET = re.compile(
    r"[^:/]*://[^/@]*:(?!\d*/)[^@]*@|(s3a?|gcs|gs|https?)://[^/]*@|.*\?.*=|https?://.*\?|.*#", re.IGNORECASE | re.DOTALL
)
_CREDENTIALS = {
    **dict.fromkeys(("s3", "s3a"), "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"),
    **dict.fromkeys(("gs", "gcs"), "GOOGLE_APPLICATION_CREDENTIALS"),
    **dict.fromkeys(
        ("abfs", "abfss", "az"), "AZURE_STORAGE_ACCOUNT_NAME with AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_SAS_TOKEN"
    ),
    "hf": "HF_TOKEN",
}
"""Environment variables from which the driver of a protocol reads credentials."""
# Class names of exceptions in the drivers' libraries (botocore, aiohttp, google-auth, azure-core), or HTTP status.
_KINDS: dict[type[OSError], set[object]] = {
    FileNotFoundError: {"FileNotFoundError", "NoSuchBucket", "ContainerNotFound", 404, 410},
    PermissionError: {
        "PermissionError", "NoCredentialsError", "PartialCredentialsError", "DefaultCredentialsError",
        "ClientAuthenticationError", 401, 403,
    },
    ConnectionError: {
        "TimeoutError", "ConnectionError", "HTTPClientError", "ClientConnectionError", "ClientPayloadError",
        "ServiceRequestError", "gaierror",
    },
}  # fmt: skip


class InputError(Exception):
    """An argument, file or setting must be changed. The message says how. The command line exits with 2."""


class UrlError(InputError, ValueError):
    """A path or URL of a corpus or lake is invalid."""


def is_url(text: str) -> bool:
    """Return whether a text is a URL, and not a local path."""
    return "://" in text


def parse_root(text: str, what: str) -> Root:
    """Parse a path or URL. No file is opened, but the fsspec driver for a URL is imported.

    Args:
        text: Path or URL.
        what: Name of the data for error messages, "lake" or "corpus".

    Raises:
        UrlError: The URL contains a key or password, consists of chained URLs (`::`), has an unknown protocol, or its
            driver is not installed.
    """
    if not is_url(text):
        return Path(text)
    if "::" in text:  # checked first, because later messages contain the URL, whose parts may contain keys
        raise UrlError(
            f"The {what}'s URL contains '::' (it is not shown because it may contain keys), expected one protocol and "
            f"a path, as in s3://bucket/folder; unpack or copy the {what}, and give the URL of the result."
        )
    scheme = text.partition("://")[0].lower()
    if _SECRET.match(text):
        advice = f"copy the {what} to a folder or to object storage"  # a web server's driver reads no credentials
        if scheme in _CREDENTIALS:
            advice = f"put credentials into the environment, where the driver reads {_CREDENTIALS[scheme]}"
        raise UrlError(
            f"The {what}'s URL holds a user, password or key, or a query (?) or fragment (#) that may be one (so it is "
            f"not shown), expected a URL without them; {advice}, and revoke those in the URL."
        )
    import fsspec
    from upath import UPath

    try:
        fsspec.get_filesystem_class(scheme or "none")  # without a name, fsspec reads local files
    except ValueError as error:
        raise UrlError(
            f"The {what} is {text!r}, whose protocol is unknown, expected one that fsspec supports, such as s3, gs, "
            "abfs, https; correct the URL."
        ) from error
    except ImportError as error:
        extra = f"; run pip install 'm2ib-audit[{_EXTRAS[scheme]}]'" if scheme in _EXTRAS else ""
        raise UrlError(f"The {what} is {text!r}, whose fsspec driver is not installed: {error}{extra}.") from error
    root = UPath(text)
    # Symbolic links are resolved and checked for pathlib paths only.
    return Path(root.path) if scheme in ("file", "local") else root


@contextmanager
def translate_errors() -> Iterator[None]:
    """Translate exceptions of fsspec drivers in a `with` block to subclasses of OSError.

    Raises:
        FileNotFoundError: The file or bucket does not exist.
        PermissionError: Credentials are missing or not sufficient.
        ConnectionError: The store cannot be reached, or does not answer in time.
        OSError: Any other error.
    """
    try:
        yield
    except Exception as error:  # each driver has its own exception types
        raise _to_os_error(error) from error


def _to_os_error(error: Exception) -> OSError:
    # For HTTP, fsspec raises FileNotFoundError for all errors. Its __cause__ is the real error.
    cause = error.__cause__ if isinstance(error, FileNotFoundError) and error.__cause__ else error
    if isinstance(cause, KeyError) or type(cause).__module__.startswith("botocore"):
        cause = error  # the file is really missing
    facts = {getattr(cause, "status", None), *(kind.__name__ for kind in type(cause).__mro__)}
    found = next((kind for kind, facts_of_kind in _KINDS.items() if facts & facts_of_kind), OSError)
    return found(f"{type(cause).__name__}: {cause}"[:300])


def advise(error: OSError) -> str:
    """Return the next step after an error that `translate_errors` raised, such as "check the network"."""
    if isinstance(error, PermissionError):
        return "check the credentials in the environment variables or the profile of the store's tools"
    return "check the network" if isinstance(error, ConnectionError) else "check the network and the store"


def list_remote(folder: "UPath") -> list[tuple[str, bool]]:
    """List a remote folder. Raises OSError; see `translate_errors`.

    Returns:
        The name of each entry and whether it is a folder, sorted by name.
    """
    with translate_errors():
        try:
            found = folder.fs.ls(folder.path, detail=True)
        finally:  # without a cached listing, the next one shows files of other writers
            folder.fs.invalidate_cache(folder.path)
    paths = {str(entry["name"]).rstrip("/"): entry["type"] == "directory" for entry in found}
    paths.pop(folder.path.rstrip("/"), None)  # some stores list the folder itself
    names = {path.rpartition("/")[2]: is_dir for path, is_dir in paths.items()}
    # A remote store may list these names, which a local folder never does.
    return sorted((name, is_dir) for name, is_dir in names.items() if name not in ("", ".", ".."))
