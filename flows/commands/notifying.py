"""The command that sets up who is notified, sends test messages and open alerts, and shows what was not delivered."""

from typing import Annotated, Any, Final

import typer

import sql
from flows.commands import output
from flows.commands.audits import prepare_prefect
from review.presentation.formatting import format_alert_update
from review.presentation.numbers import format_count
from stores import Root, format_command

RETRY: Final = "the next run of a deployment tries again, for a week"


def notify(
    webhook: Annotated[str | None, typer.Option(metavar="URL", help="Notify a web hook that takes JSON.")] = None,
    slack: Annotated[str | None, typer.Option(metavar="URL", help="Notify a channel by a Slack web hook.")] = None,
    teams: Annotated[str | None, typer.Option(metavar="URL", help="Notify a Microsoft Teams workflow.")] = None,
    email: Annotated[
        str | None, typer.Option(metavar="ADDRESSES", help="Notify by mail; needs --smtp and --sender.")
    ] = None,
    smtp: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            envvar="M2IB_AUDIT_SMTP",
            help="Mail server: smtp://HOST, smtp+starttls://USER:PASSWORD@HOST or smtps://USER:PASSWORD@HOST.",
        ),
    ] = None,
    sender: Annotated[str | None, typer.Option(metavar="ADDRESS", help="Sender of the mail.")] = None,
    block: Annotated[
        str | None, typer.Option(metavar="TYPE/NAME", help="Notify through a block of Prefect; see `prefect block ls`.")
    ] = None,
    on: Annotated[
        str | None,
        typer.Option(metavar="KINDS", help="Kinds of messages, separated by commas; see docs/alerts-over-time.md."),
    ] = None,
    confirmed: Annotated[bool, typer.Option("--confirmed", help="Notify only of confirmed alerts.")] = False,
    silent_after: Annotated[
        float | None,
        typer.Option(min=0.01, metavar="HOURS", help="Also notify when no audit has completed for this many hours."),
    ] = None,
    backlog: Annotated[
        bool, typer.Option("--backlog", help="Send the open alerts of the lake that the recipient has not got.")
    ] = False,
    test: Annotated[bool, typer.Option("--test", help="Send a sample message.")] = False,
    status: Annotated[bool, typer.Option("--status", help="List recipients, and what was not delivered.")] = False,
    remove: Annotated[bool, typer.Option("--remove", help="Stop notifying this recipient.")] = False,
    lake: output.LakeOption = output.LAKE,
    as_json: output.JsonOption = False,
    verbose: output.VerboseOption = False,
) -> None:
    """Notify a web hook, chat or mailbox of alerts and runs. Run it again to change the settings.

    Runs of deployments notify; runs of the command line do so with --notify.
    """
    prepare_prefect(verbose)
    targets = {"block": block, "webhook": webhook, "slack": slack, "teams": teams, "email": email}
    given = [(kind, target) for kind, target in targets.items() if target is not None]
    settings = on, confirmed, silent_after
    if len(given) != (not status):
        output.fail("notify: expected one of --webhook, --slack, --teams, --email and --block, or --status")
    if remove and any([*settings, backlog, test]):
        output.fail("--remove: takes no other option than the recipient")
    if email and not (remove or (smtp and sender)):
        output.fail("--email: needs --smtp (or M2IB_AUDIT_SMTP) and --sender")
    with output.reach_server("notify"):
        if status:
            _print_status(lake, as_json)
            return
        name, is_new = _find_block(*given[0], remove, smtp, sender)
        # --test and --backlog alone leave the settings as they are.
        keeps = not is_new and (test or backlog) and not any(settings)
        changes = [] if keeps else _set_up(name, remove, *settings)
        answer: dict[str, Any] = {"recipient": name, "changes": changes}
        reason = _test(name) if test else None
        if not remove:
            reason = _offer_backlog(name, lake, backlog, answer) or reason
    if as_json:
        output.print_json(answer)
    if reason:
        output.fail(f"{name}: {reason}; its settings: prefect block inspect {name}", output.Exit.FAILURE)


def _find_block(kind: str, target: str, remove: bool, smtp: str | None, sender: str | None) -> tuple[str, bool]:
    """Return the name of a block, after saving it unless it is one of the user's; and whether it is a new recipient."""
    from flows.notify import build_block
    from tasks.recipients import read_recipients

    name = target
    if kind != "block":
        name, new_block = build_block(kind, target, smtp, sender)
        if not remove:
            new_block.save(name.partition("/")[2], overwrite=True)
    return name, name not in [recipient.block for recipient in read_recipients()]


def _set_up(
    name: str, remove: bool, on: str | None, confirmed: bool, silent_after: float | None
) -> list[dict[str, str]]:
    from flows.notify import DEFAULT, set_up

    kinds = DEFAULT if on is None else [kind.strip() for kind in on.split(",") if kind.strip()]
    changes = set_up(name, [] if remove else kinds, confirmed, silent_after)
    for each, change in changes:
        output.say(f"{change}: {each}")
    return [{"name": each, "became": change} for each, change in changes]


def _test(name: str) -> str | None:
    from flows.notify import send_test

    reason = send_test(name)
    output.say(f"test message: {'not delivered' if reason else 'delivered'}")
    return reason


def _offer_backlog(name: str, lake: Root, send: bool, answer: dict[str, Any]) -> str | None:
    """Send the open alerts that a recipient has not got, or say how; return why they were not delivered."""
    from flows.notify import list_open_alerts, send_backlog
    from tasks.recipients import read_recipients

    (recipient,) = [each for each in read_recipients() if each.block == name]
    try:
        waiting = list_open_alerts(lake, recipient)
    except sql.LakeError as error:
        if send:
            raise
        output.note(f"open alerts are unknown: {error}")
        return None
    count, reason = sum(len(rows) for _, rows in waiting), None
    answer["open_alerts"] = count
    if not count:
        output.say(f"{lake} has no open alert that {recipient.block} has not got")
        with sql.connect(lake) as connection:
            failed = sql.rows(connection, "review/undelivered_messages")
        if late := sum(row["recipient"] == recipient.block for row in failed):
            output.say(f"{format_count(late, 'message')} not delivered to it; {RETRY}")
    elif not send:
        command = format_command(lake, "notify", "--block", recipient.block, "--backlog")
        output.say(f"{lake} has {format_count(count, 'open alert')} not sent to it; to send: {command}")
    else:
        answer["delivered"], reason = send_backlog(recipient, waiting)
        output.say(
            f"delivered: {answer['delivered']} of {format_count(count, 'open alert')}"
            + (f" ({reason})" if reason else "")
        )
    return reason


def _print_status(lake: Root, as_json: bool) -> None:
    """Print the recipients and what they got, messages that were not delivered, and alerts that were sent to nobody."""
    from flows.notify import list_open_alerts
    from tasks.recipients import read_recipients

    recipients, delivered, failed, unsent = read_recipients(), {}, [], []
    try:
        with sql.connect(lake) as connection:
            delivered = {row["recipient"]: row for row in sql.rows(connection, "review/deliveries_by_recipient")}
            failed = sql.rows(connection, "review/undelivered_messages")
        unsent = [(run.run_id, row) for run, rows in list_open_alerts(lake, None) for row in rows]
    except sql.LakeError as error:
        output.note(f"what was delivered is unknown: {error}")
    nothing = {"delivered": 0, "last_delivered": None, "not_delivered": 0}
    rows = [
        {
            "recipient": each.block,
            "gets": ", ".join(each.on) + (" (confirmed alerts only)" if each.confirmed else ""),
            **{key: delivered.get(each.block, nothing)[key] for key in nothing},
        }
        for each in recipients
    ]
    if as_json:
        alerts = [{"run_id": run_id, "life_id": row["life_id"]} for run_id, row in unsent]
        output.print_json({"recipients": rows, "undelivered": failed, "sent_to_nobody": alerts})
        return
    for row in rows:
        output.say(row["recipient"])
        output.say_wrapped(f"gets: {row['gets']}", indent=2)
        last = "" if row["last_delivered"] is None else f", the last at {row['last_delivered']:%Y-%m-%d %H:%M} UTC"
        counts = f"{format_count(row['delivered'], 'message')} delivered{last}; {row['not_delivered']} not delivered"
        output.say_wrapped(counts, indent=2)
    if not rows:
        output.say(f"nobody is notified; to change this: {format_command(lake, 'notify', '--webhook', 'URL')}")
    for row in failed:
        about = row["event"].rpartition(".")[2] + (f", {row['region']}" if row["region"] else "")
        attempts = f"{format_count(row['attempts'], 'attempt')}, last at {row['last_tried']:%Y-%m-%d %H:%M} UTC"
        output.say(f"not delivered to {row['recipient']}: {about} (run {row['run_id']}); {attempts}: {row['reason']}")
    if failed:
        output.say(RETRY)
    if unsent:
        output.say(
            f"sent to nobody: {format_count(len(unsent), 'open alert')}; the next run of a deployment sends them:"
        )
        for run_id, row in unsent:
            output.say(f"  run {run_id}: {format_alert_update(row)}")
