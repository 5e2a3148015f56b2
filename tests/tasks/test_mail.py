"""Mail: the block speaks to an SMTP server on loopback."""

import socketserver
import threading

import pytest

from tasks.errors import BadInputError
from tasks.mail import Email


@pytest.fixture
def smtp():
    """The port of an SMTP server, and the commands and lines that it got."""
    lines = []

    class Session(socketserver.StreamRequestHandler):
        def handle(self):
            in_data = False
            self.wfile.write(b"220 here\r\n")
            for line in map(bytes.strip, self.rfile):
                lines.append(line.decode())
                if in_data and line != b".":
                    continue
                in_data = line.upper() == b"DATA"
                self.wfile.write(b"354 go on\r\n" if in_data else b"250 done\r\n")
                if line.upper() == b"QUIT":
                    return

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Session) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1], lines
        server.shutdown()


def test_mail_reaches_every_address(smtp):
    port, lines = smtp
    block = Email.through(f"smtp://127.0.0.1:{port}", "audit@example.org", "ada@example.org,grace@example.org")
    with block.raise_on_failure():
        block.notify("NEW (suspected): {{ x }} on “corner”\nrun id: r1", "c with m: new, corner")
    recipients = [line for line in lines if line.lower().startswith("rcpt to:")]
    assert [line.partition(":")[2].strip("<>") for line in recipients] == ["ada@example.org", "grace@example.org"]
    assert any(line.lower().startswith("mail from:<audit@example.org>") for line in lines)
    assert "Subject: c with m: new, corner" in lines


@pytest.mark.parametrize(
    ("server", "beginning"),
    [
        ("smtp://relay.example.org", "mailto://relay.example.org:25/?"),
        ("smtp+starttls://me:p%40ss@mail.example.org", "mailtos://me:p%40ss@mail.example.org:587/?"),
        ("smtps://me:secret@mail.example.org:4650", "mailtos://me:secret@mail.example.org:4650/?"),
    ],
)
def test_the_url_of_the_server_decides_the_encryption(server, beginning):
    block = Email.through(server, "audit@example.org", "ada@example.org")
    assert block.url.get_secret_value().startswith(beginning)
    assert ("mode=ssl" in block.url.get_secret_value()) == server.startswith("smtps:")
    assert "example" not in repr(block)


@pytest.mark.parametrize("server", ["", "mail.example.org", "https://mail.example.org"])
def test_another_url_is_bad_input(server):
    with pytest.raises(BadInputError, match="--smtp: expected smtp://HOST"):
        Email.through(server, "audit@example.org", "ada@example.org")
