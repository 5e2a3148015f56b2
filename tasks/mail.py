"""Mail by SMTP as a notification block of Prefect, which has none of its own.

The entry point `prefect.collections` of this package makes the block known to Prefect's server and worker.
"""

from typing import Any, Self
from urllib.parse import quote, urlencode, urlsplit

from prefect.blocks.notifications import AbstractAppriseNotificationBlock
from pydantic import Field, SecretStr

from tasks.errors import BadInputError

_SCHEMES = {
    "smtp": ("mailto", 25, {}),
    "smtp+starttls": ("mailtos", 587, {}),
    "smtps": ("mailtos", 465, {"mode": "ssl"}),
}


class Email(AbstractAppriseNotificationBlock):
    """Send notifications by mail, through an SMTP server."""

    _block_type_name = "SMTP Email"
    _block_type_slug = "smtp-email"

    url: SecretStr = Field(default=..., title="URL", description="mailto:// URL as Apprise takes it.")

    @classmethod
    def through(cls, server: str, sender: str, to: str) -> Self:
        """Return a block that sends mail from `sender` to an address, or to several, separated by commas.

        Args:
            server: URL of the SMTP server: smtp://host (no encryption), smtp+starttls://user:password@host or
                smtps://user:password@host, each with a port unless it is the usual one.
            sender: Address of the sender.
            to: Addresses of the recipients.
        """
        parts = urlsplit(server)
        if parts.scheme not in _SCHEMES or not parts.hostname:
            raise BadInputError(
                "--smtp: expected smtp://HOST, smtp+starttls://USER:PASSWORD@HOST or smtps://USER:PASSWORD@HOST"
            )
        scheme, port, extra = _SCHEMES[parts.scheme]
        user = parts.netloc.rpartition("@")[0]
        query: dict[str, Any] = {"from": sender, "to": to, "smtp": parts.hostname, "format": "text", **extra}
        host = f"{user}@{parts.hostname}" if user else parts.hostname
        return cls(url=SecretStr(f"{scheme}://{host}:{parts.port or port}/?{urlencode(query, quote_via=quote)}"))
