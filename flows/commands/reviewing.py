"""Commands for reviewers: the review site, its users, reports, signatures and keys."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from flows.commands import output


def report(
    run_id: Annotated[
        str, typer.Argument(metavar="RUN_ID", help="Id of a run, `latest`, or an audit's name; complete or not.")
    ],
    pdf: Annotated[bool, typer.Option("--pdf", help="Write a PDF to sign and file, instead of HTML.")] = False,
    out: Annotated[Path | None, typer.Option(help="File to write; default: in the run's folder.")] = None,
    fonts: Annotated[
        list[Path] | None,
        typer.Option(help="Folder of fonts for scripts that the PDF's own fonts lack; repeatable."),
    ] = None,
    key: output.KeyOption = None,
    lake: output.LakeOption = output.LAKE,
    as_json: output.JsonOption = False,
) -> None:
    """Write a run's report, with all decisions and signatures so far, as one self-contained HTML file or PDF."""
    from review.report.html import write_report
    from tasks.progress import bar

    if fonts and not (pdf and all(folder.is_dir() for folder in fonts)):
        output.fail(f"--fonts: got {', '.join(map(str, fonts))}, expected folders with font files, together with --pdf")
    run_id = output.choose_run(lake, run_id)
    with bar("writing the report"):
        path = write_report(lake, run_id, out, "pdf" if pdf else "html", fonts or (), "m2ib-audit report", key)
    if as_json:
        output.print_json({"report": path})
    else:
        output.say(str(path))


def sign(
    run_id: output.RunArgument,
    name: Annotated[str, typer.Option(help="Printed name of the signer.")],
    role: Annotated[str, typer.Option(help="Role of the signer: radiologist, head of quality, ...")],
    meaning: Annotated[str, typer.Option(help="Meaning: review, approval, responsibility or authorship.")],
    statement: Annotated[str, typer.Option(help="Statement about the run.")],
    four_eyes: Annotated[
        bool, typer.Option("--four-eyes", help="The signature takes effect once a second person has countersigned.")
    ] = False,
    key: output.KeyOption = None,
    lake: output.LakeOption = output.LAKE,
    as_json: output.JsonOption = False,
) -> None:
    """Sign off a run, as on the review site. Later reports print the signature.

    The name is not verified (identity `declared`): anybody with access to this machine can sign.
    """
    from review.evidence.decisions import Reviewer, sign_off

    run_id = output.choose_run(lake, run_id, complete=True)
    who = Reviewer(name, role, "declared")
    record = sign_off(lake, who, run_id, meaning, statement, four_eyes=four_eyes, signer=key)
    counts = record.body["alerts"]
    output.say(
        f"signed: run {run_id}, record {record.number} of the ledger; of the run's alerts {counts['decided']} are "
        f"decided, {counts['open']} are open, and {counts['pending']} wait for a second signature"
    )
    if as_json:
        output.print_json({"run_id": run_id, "record": record.number, "sha256": record.sha256, "alerts": counts})


def review(
    lake: output.LakeOption = output.LAKE,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0: any free port.")] = 8765,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the site in a browser.")] = True,
    users: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Users file (see m2ib-audit users); everybody must then sign in."),
    ] = None,
    four_eyes: Annotated[
        bool,
        typer.Option("--four-eyes", help="Decisions that close an alert, and sign-offs, need a second signature."),
    ] = False,
    proxy_header: Annotated[
        str | None, typer.Option(metavar="NAME", help="Header with the user's name, such as X-Forwarded-User.")
    ] = None,
    proxy_role_header: Annotated[
        str | None, typer.Option(metavar="NAME", help="Header with the user's role; default: all are reviewers.")
    ] = None,
    proxy_from: Annotated[
        list[str] | None,
        typer.Option(metavar="ADDRESS", help="Address or network of the proxy whose headers are trusted; repeatable."),
    ] = None,
    public_url: Annotated[
        str | None, typer.Option(metavar="URL", help="Public URL when the site is behind a proxy: https://...")
    ] = None,
    allow_anonymous_read: Annotated[
        bool, typer.Option("--allow-anonymous-read", help="Anybody may read, without signing in; nobody may write.")
    ] = False,
    remote_corpora: Annotated[
        bool, typer.Option("--remote-corpora", help="Fetch images of remote corpora, from any URL that a run names.")
    ] = False,
    reads: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Folder of the log of who read what; default: LAKE.reads beside the lake."),
    ] = None,
    key: output.KeyOption = None,
) -> None:
    """Serve the review site of a lake: alerts with their evidence, pairs, runs, errors. Ctrl+C stops it.

    Without a users file, anybody on this machine may read, and decide under any name. To offer the site on the
    network, see docs/review.md.
    """
    import webbrowser

    from review.site.app import create_app
    from review.site.serve import serve
    from review.site.settings import ReviewSettings
    from stores.ledger import check_signer

    check_signer(lake, key)  # not only when the first reviewer signs
    settings = ReviewSettings(
        host=host,
        port=port,
        users=users,
        four_eyes=four_eyes,
        proxy_header=proxy_header,
        proxy_role_header=proxy_role_header,
        proxy_from=tuple(proxy_from or ()),
        public_url=public_url,
        allow_anonymous_read=allow_anonymous_read,
        remote_corpora=remote_corpora,
        reads=reads,
        signer=key,
    )
    site = create_app(lake, settings)
    site.state.lake_cache.connect()  # a folder that is no lake is reported before the server listens

    def ready(address: str) -> None:
        output.say(f"review: {address} shows {lake}; Ctrl+C stops it")
        sys.stdout.flush()
        if browser and sys.stdout.isatty():
            webbrowser.open(address)

    if not serve(site, host, port, ready):
        message = f"review: cannot listen on {host}, port {port}; choose another port with --port"
        output.fail(message, output.Exit.FAILURE)


UsersOption = Annotated[Path, typer.Option("--users", metavar="FILE", help="Users file; `add` creates it.")]
StdinOption = Annotated[
    bool, typer.Option("--password-stdin", help="Read the password from the first line of standard input.")
]
_MAX_PASSWORD_BYTES = 1 << 20  # what is longer is refused anyway


def _read_password(from_stdin: bool) -> str:
    """Prompt for a password. It is never a command-line argument: other users of the machine could see those."""
    if from_stdin:
        try:
            return sys.stdin.buffer.readline(_MAX_PASSWORD_BYTES).decode().rstrip("\r\n")
        except UnicodeDecodeError:
            output.fail(
                "password: standard input is not UTF-8, the encoding of the sign-in page; convert it, for example: "
                "iconv -f LATIN1 -t UTF-8"
            )
    if not sys.stdin.isatty():
        output.fail("password: there is no terminal to ask on; pass it with --password-stdin")
    password: str = typer.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
    return password


def add_user(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name to sign in with.")],
    users: UsersOption,
    full_name: Annotated[str, typer.Option(help="Printed name in signatures; must be unique.")],
    role: Annotated[str, typer.Option(help="Role: reader, reviewer (decides and signs) or approver (also approves).")],
    password_stdin: StdinOption = False,
) -> None:
    """Add a user. Asks for the password, of at least 12 characters."""
    from review.site.users import add

    user = add(users, name, full_name, role, _read_password(password_stdin))
    output.say(f"added {user.name}: {user.full_name}, {user.role}")


def change_password(
    name: Annotated[str, typer.Argument(metavar="NAME")], users: UsersOption, password_stdin: StdinOption = False
) -> None:
    """Change a user's password and end the user's sessions."""
    from review.site.users import change_password as change

    user = change(users, name, _read_password(password_stdin))
    output.say(f"changed the password of {user.name}")


def disable_user(
    name: Annotated[str, typer.Argument(metavar="NAME")],
    users: UsersOption,
    undo: Annotated[bool, typer.Option("--undo", help="Enable the user again.")] = False,
) -> None:
    """Disable a user at once. Users are never removed: signatures refer to them."""
    from review.site.users import set_disabled

    user = set_disabled(users, name, disabled=not undo)
    output.say(f"{'enabled' if undo else 'disabled'} {user.name}")


def list_users(users: UsersOption, as_json: output.JsonOption = False) -> None:
    """List the users who may sign in."""
    from review.site.users import load

    keys = ("name", "full_name", "role", "disabled")
    output.print_rows("users", [{key: getattr(user, key) for key in keys} for user in load(users).values()], as_json)


def add_key(
    public_key: Annotated[Path, typer.Argument(metavar="PUBLIC_KEY", help="File of the new public key (.pub).")],
    key: output.KeyOption = None,
    lake: output.LakeOption = output.LAKE,
) -> None:
    """Introduce a key in the ledger: records that it signs are then trusted like those of the key that signs this.

    --key is the key that signed records before; if nothing was signed yet, the new key itself.
    """
    from review.evidence.signatures import introduce_key
    from stores.keys import load_public_key

    record = introduce_key(lake, load_public_key(public_key), _require_key(key))
    output.say(f"introduced: key {record.body['key_id']}, record {record.number} of the ledger")


def revoke_key(
    key_id: Annotated[str, typer.Argument(metavar="KEY_ID", help="Id of the key, as verify lists it.")],
    since: Annotated[
        str | None,
        typer.Option(metavar="DATE", help="Records that it signed from then on are not trusted; default: now."),
    ] = None,
    key: output.KeyOption = None,
    lake: output.LakeOption = output.LAKE,
) -> None:
    """Revoke a key in the ledger, from a date on. --key is another key that the ledger knows."""
    from review.evidence.signatures import revoke_key as revoke

    record = revoke(lake, key_id, since, _require_key(key))
    output.say(f"revoked: key {key_id} from {record.body['since']} on, record {record.number} of the ledger")


def _require_key(key: Any) -> Any:
    if key is None:
        output.fail("key: got no --key, expected the private key that signs the record (or set M2IB_AUDIT_KEY)")
    return key


def new_key(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="File of the private key; the public key is PATH.pub.")],
) -> None:
    """Create an Ed25519 key pair. Keep the private key secret and backed up; give the public key to verifiers."""
    from stores.keys import create_key

    public = create_key(path)
    output.say(f"private key: {path}\npublic key: {path}.pub\nkey id: {public.key_id}")
