"""What the page is told when it starts."""

from dataclasses import dataclass, field
from pathlib import Path

from stores.ledger import Signer


@dataclass(frozen=True)
class ReviewSettings:
    """How the page listens, and what it allows."""

    host: str = "127.0.0.1"
    port: int = 8765
    sql_rows: int = 1000
    """Rows of an answer that the SQL page shows."""
    sql_seconds: float = 10.0
    """After which a query of the SQL page is broken off."""
    users: Path | None = None
    """The users file; with it, reading too needs a user."""
    proxy_header: str | None = None
    """Header in which a proxy names the user that it has signed in."""
    proxy_role_header: str | None = None
    """Header in which it says the user's role; without one, everyone that it names is a reviewer."""
    proxy_from: tuple[str, ...] = ()
    """Addresses or networks of the proxy; from others its headers, X-Forwarded-For among them, mean nothing."""
    allow_anonymous_read: bool = False
    """Anyone who reaches the page may read, and nobody may write."""
    public_url: str | None = None
    """As which browsers know the page, where a proxy stands before it."""
    idle_seconds: float = 30 * 60.0
    """Without a request for so long, a user is signed out."""
    session_seconds: float = 12 * 3600.0
    """After which a user signs in again, whatever happens."""
    remote_corpora: bool = False
    """Images of corpora behind a URL are fetched; which URL, a run's manifest says."""
    four_eyes: bool = False
    """Decisions that close an alert, and sign-offs, need a second person, whatever the run's AUDIT.toml says."""
    signer: Signer | None = field(default=None, repr=False)
    """The key that signs what the page adds to the lake's ledger."""
