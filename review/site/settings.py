"""Settings of the review site."""

from dataclasses import dataclass, field
from pathlib import Path

from stores.keys import SigningKey


@dataclass(frozen=True)
class ReviewSettings:
    """Settings of the review site: where it listens, who may use it, and its limits."""

    host: str = "127.0.0.1"
    port: int = 8765
    users: Path | None = None
    """Path of the users file. With this file, reading also needs a sign-in."""
    proxy_header: str | None = None
    """Header in which the proxy names the signed-in user."""
    proxy_role_header: str | None = None
    """Header in which the proxy gives the user's role; without it, every user is a reviewer."""
    proxy_from: tuple[str, ...] = ()
    """Addresses or networks of the proxy. Its headers, and X-Forwarded-For, are ignored from other addresses."""
    allow_anonymous_read: bool = False
    """Everyone who can reach the site may read; nobody may write."""
    public_url: str | None = None
    """Public URL when the site is behind a proxy."""
    remote_corpora: bool = False
    """Whether to load images of corpora on the network; the manifest of each run says from which URL."""
    four_eyes: bool = False
    """Whether decisions that close an alert, and sign-offs, need a second person, whatever AUDIT.toml says."""
    reads: Path | None = None
    """Folder of the log of reads, which a site with users or a proxy writes; by default beside the lake."""
    signer: SigningKey | None = field(default=None, repr=False)
    """Key that signs the records that the site adds to the ledger."""
