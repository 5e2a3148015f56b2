"""What the page is told when it starts."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ReviewSettings:
    """How the page listens, and what it allows."""

    host: str = "127.0.0.1"
    port: int = 8765
    sql_rows: int = 1000
    """Rows of an answer that the SQL page shows."""
    sql_seconds: float = 10.0
    """After which a query of the SQL page is broken off."""
