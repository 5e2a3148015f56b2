"""What people make of alerts: decisions, second signatures and sign-offs, each a record of the lake's ledger.

Nothing is overwritten: whoever decides again adds a record, and the view `triage` says which decision is in force.
"""

import contextlib
import itertools
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime
from typing import Any, Final

import sql
import stores
from stores import Root, ledger
from stores.ledger import Record, Signer

DECISIONS: Final = ("open", "confirmed", "benign", "needs_data", "waived")
"""`open`: judged before, and to be judged again."""
SECONDED: Final = ("confirmed", "benign", "waived")
"""Decisions that close an alert, and that with four eyes hold only once a second person has countersigned."""
MEANINGS: Final = ("review", "approval", "responsibility", "authorship")
"""What a signature means (21 CFR 11.50)."""
IDENTITIES: Final = ("declared", "password", "proxy")
"""How it is known who signs: they said so (on this machine, without a users file), by a password, by a proxy."""
REASON_CHARS: Final = 4000
_NAME_CHARS: Final = 200
_JUDGED: Final = (
    *("state", "severity", "n", "share", "area", "effect", "score_effect", "score_low", "score_high", "margin"),
    *("rule_digest", "config_digest"),
)


class DecisionError(Exception):
    """A decision or signature that is not taken; the message says what, got, expected, next step."""


@dataclass(frozen=True)
class Reviewer:
    """Who decides or signs; identity: how that is known, one of IDENTITIES."""

    name: str
    role: str
    identity: str

    def is_same(self, name: str) -> bool:
        """Whether a name is this person's, however it is written."""
        return ledger.normalize_person(self.name) == ledger.normalize_person(name)


def decide(
    lake: Root,
    reviewer: Reviewer,
    run_id: str,
    alert_id: str,
    decision: str,
    reason: str,
    meaning: str,
    until: date | None = None,
    *,
    four_eyes: bool = False,
    signer: Signer | None = None,
    seen: int | None = None,
) -> Record:
    """Record what a reviewer decided about an alert, with what was judged, and return the record.

    until: the last day of a waiver. four_eyes: a second person has to countersign, whatever the run's AUDIT.toml says.
    seen: number of the review that the reviewer saw as the last one, of this alert or of all, 0 for none.

    Raises:
        DecisionError: something is missing or none of what it can be, the alert is not in the run, or somebody else has
            decided since.
        sql.LakeError: the lake or its ledger cannot be read or written.
    """
    said = _said("reason", reason)
    _check(reviewer, meaning)
    _one_of("decision", decision, DECISIONS)
    if decision == "waived":
        if until is None or until < datetime.now(UTC).date():
            raise DecisionError(
                f"until: got {until or 'nothing'}, expected the last day of the waiver, today (UTC) or later; name it"
            )
    elif until is not None:
        raise DecisionError(
            f"until: got {until} with decision {decision!r}, expected a day with `waived` only; leave it out"
        )
    manifest, digest = _manifest(lake, run_id)
    life = _life(lake, run_id, alert_id)
    body = {
        "run_id": run_id,
        "alert_id": alert_id,
        "life_id": life["life_id"],
        "decision": decision,
        "reason": said,
        "until": None if until is None else until.isoformat(),
        "meaning": meaning,
        "four_eyes": four_eyes or bool(manifest.get("four_eyes")),
        "reviewer": asdict(reviewer),
        "evidence": {key: life[key] for key in _JUDGED}
        | {"model_digest": manifest.get("model_digest"), "corpus_digest": manifest.get("corpus_digest")}
        | {"manifest_sha256": digest},
    }

    def check(before: Sequence[Record]) -> None:
        last = find_decision(before, life["life_id"], run_id)
        if seen is not None and last is not None and last.number > seen:
            who, what = last.body["reviewer"]["name"], last.body["decision"]
            raise DecisionError(
                f"decision: {who} has decided {what!r} meanwhile (record {last.number}), expected the state that you "
                "saw; look at it, and decide again"
            )

    return _appended(lake, "review", body, signer, check)


def countersign(
    lake: Root,
    reviewer: Reviewer,
    number: int,
    meaning: str,
    statement: str = "",
    *,
    signer: Signer | None = None,
) -> Record:
    """Record that a second person stands by a review or sign-off, and return the record.

    number: of the record that is countersigned. statement: a remark, may be empty.

    Raises:
        DecisionError: There is no such record; it is the reviewer's own, already countersigned or not in force; or its
            signer was identified more strongly than this reviewer.
        sql.LakeError: the ledger cannot be read or written.
    """
    _check(reviewer, meaning)
    said = _said("statement", statement) if statement.strip() else ""

    def check(before: Sequence[Record]) -> None:
        subject = _subject(before, number)
        if reviewer.is_same(subject.body["reviewer"]["name"]):
            raise DecisionError(
                f"countersign: record {number} is {reviewer.name}'s own, expected another person's; ask somebody else"
            )
        if reviewer.identity == "declared" and (known := subject.body["reviewer"]["identity"]) != "declared":
            raise DecisionError(
                f"countersign: got a name that was only said, expected one that is known as well as the first signer's "
                f"(identity {known!r}) of record {number}; sign in, and countersign on the page"
            )
        for other in ledger.select_kinds(before, "countersign"):
            if is_valid_countersign(other, subject):
                raise DecisionError(
                    f"countersign: record {number} was countersigned by {other.body['reviewer']['name']} (record "
                    f"{other.number}), expected one that was not; there is nothing left to do"
                )

    before = ledger.read_records(lake)
    check(before)
    body = {
        "record": number,
        "record_sha256": before[number - 1].sha256,
        "meaning": meaning,
        "statement": said,
        "reviewer": asdict(reviewer),
    }
    return _appended(lake, "countersign", body, signer, check)


def sign_off(
    lake: Root,
    reviewer: Reviewer,
    run_id: str,
    meaning: str,
    statement: str,
    *,
    four_eyes: bool = False,
    signer: Signer | None = None,
    seen: int | None = None,
) -> Record:
    """Record that a reviewer signs a run off, with what was open then, and return the record.

    seen: number of the last record of the ledger that the reviewer saw; default: the last one there is.

    Raises:
        DecisionError: something is missing or none of what it can be, the run is not a complete one, or somebody has
            decided or signed since.
        sql.LakeError: the lake or its ledger cannot be read or written.
    """
    said = _said("statement", statement)
    _check(reviewer, meaning)
    manifest, digest = _manifest(lake, run_id)
    last = len(ledger.read_records(lake)) if seen is None else seen
    body = {
        "run_id": run_id,
        "meaning": meaning,
        "statement": said,
        "four_eyes": four_eyes or bool(manifest.get("four_eyes")),
        "reviewer": asdict(reviewer),
        "manifest_sha256": digest,
        **_counted(lake, manifest),
    }

    def check(before: Sequence[Record]) -> None:
        for record in ledger.select_kinds(before[last:], "review", "countersign", "sign_off"):
            raise DecisionError(
                f"sign-off: {record.body['reviewer']['name']} has decided or signed meanwhile (record {record.number}),"
                " expected the state that you saw; look at it, and sign again"
            )

    return _appended(lake, "sign_off", body, signer, check)


def find_earlier_runs(lake: Root, manifest: Mapping[str, Any]) -> tuple[list[str], str | None]:
    """Earlier complete runs of a run's audit, and why one could not be told from these, if that is so.

    What was judged in them counts for the run too. A run that cannot be read is left out: it may be another audit's.
    """
    names = [name for name in stores.list_folders(lake / "runs") if name < manifest["run_id"]]
    gap = None
    try:
        records = sql.read_manifests(lake, names[0], names[1:]) if names else []
    except sql.LakeError as error:
        gap, records = str(error), list(_readable(lake, names))
    same = [record for record in records if all(record.get(key) == manifest.get(key) for key in ("corpus", "model"))]
    return [record["run_id"] for record in same if sql.is_complete(record)], gap


def _readable(lake: Root, names: Iterable[str]) -> Iterator[dict[str, Any]]:
    """The manifests of some runs, one after the other, without those that cannot be read."""
    for name in names:
        with contextlib.suppress(sql.LakeError):
            yield from sql.read_manifests(lake, name)


def _counted(lake: Root, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """How many alerts are open, pending and decided; `gap`: why earlier runs of the audit did not tell all."""
    run_id = manifest["run_id"]
    beside, gap = find_earlier_runs(lake, manifest)

    def counts(*names: str) -> dict[str, Any]:
        with sql.connect(lake, run_id, names, with_decisions=True) as connection:
            return sql.rows(connection, "review/decision_counts", run_id=run_id)[0]

    try:
        found = counts(*beside)
    except sql.LakeError as error:  # what befell another run leaves this one to be signed
        found, gap = counts(), str(error)
    return {"alerts": found} | ({} if gap is None else {"gap": gap})


def _appended(lake: Root, kind: str, body: dict[str, Any], signer: Signer | None, check: Any) -> Record:
    try:
        return ledger.append(lake, kind, body, signer, check)
    except OSError as error:
        raise sql.LakeError(
            f"ledger: nothing was recorded ({error.strerror or error}); see to the lake's space and permissions"
        ) from error


def _one_of(what: str, given: str, expected: Sequence[str]) -> None:
    if given not in expected:
        raise DecisionError(f"{what}: got {given!r}, expected one of {', '.join(expected)}; choose one")


def _check(reviewer: Reviewer, meaning: str) -> None:
    _one_of("meaning", meaning, MEANINGS)
    _one_of("identity", reviewer.identity, IDENTITIES)
    for what, given in (("name", reviewer.name), ("role", reviewer.role)):
        if not given.strip() or len(given) > _NAME_CHARS or not given.isprintable():
            raise DecisionError(
                f"{what}: got {given[:_NAME_CHARS]!r}, expected one line of at most {_NAME_CHARS} characters; say who "
                "signs"
            )
        if (hidden := ledger.describe_disguise(given)) is not None:
            raise DecisionError(f"{what}: got {hidden}, expected letters of one script, all to be seen; type it anew")


def _said(what: str, text: str) -> str:
    """A text as it is recorded: without white space around it. Raises DecisionError for one that cannot be."""
    said = text.replace("\r\n", "\n").strip()
    if not said:
        raise DecisionError(f"{what}: got nothing, expected why; an auditor reads it years from now: write it down")
    if len(said) > REASON_CHARS:
        raise DecisionError(f"{what}: got {len(said)} characters, expected {REASON_CHARS} at most; shorten it")
    if any(unicodedata.category(mark) in ("Cc", "Cs") and mark not in "\n\t" for mark in said):
        raise DecisionError(f"{what}: got control characters, expected text; remove them")
    return said


def _manifest(lake: Root, run_id: str) -> tuple[dict[str, Any], str]:
    """The manifest of a complete run, and its sha256. Raises DecisionError."""
    names = stores.list_folders(lake / "runs")
    found = next(iter(sql.read_manifests(lake, run_id) if run_id in names else ()), None)  # whatever befell other runs
    if found is None or not sql.is_complete(found):
        got = repr(run_id) if found is None else f"{run_id!r}, which is {found['status']}"
        complete = (one["run_id"] for one in _readable(lake, names[::-1]) if sql.is_complete(one))
        newest = ", ".join(itertools.islice(complete, 5)) or "none"
        raise DecisionError(f"run: got {got}, expected a complete run of {lake}: {newest}; name one of these")
    return found, sql.manifest_sha256(lake, run_id)


def _life(lake: Root, run_id: str, alert_id: str) -> dict[str, Any]:
    with sql.connect(lake, run_id) as connection:
        found = sql.rows(connection, "review/alert_history_of_run", run_id=run_id, alert_id=alert_id)
    if not found:
        raise DecisionError(
            f"alert: got {alert_id!r}, expected an alert of run {run_id}; see m2ib-audit alerts --run {run_id}"
        )
    return found[0]


def find_decision(before: Sequence[Record], life_id: str, run_id: str) -> Record | None:
    """The review of an alert that counts in a run, as the view `triage` has it.

    Of those upon this run or earlier ones that upon the newest run, and of these the last.
    """
    reviews = [record for record in before if record.kind == "review" and record.body["life_id"] == life_id]
    known = [record for record in reviews if record.body["run_id"] <= run_id]
    return max(known, key=lambda record: (record.body["run_id"], record.number), default=None)


def is_valid_countersign(countersign: Record, subject: Record) -> bool:
    """Whether a second signature counts for a review or sign-off, as the view `countersigned` has it.

    It is another person's, and it is known at least as well who that is: a name that was only said adds nothing to a
    signature with a password.
    """
    body, who, other = countersign.body, countersign.body["reviewer"], subject.body["reviewer"]
    is_about = body["record"] == subject.number and body["record_sha256"] == subject.sha256
    is_another = ledger.normalize_person(who["name"]) != ledger.normalize_person(other["name"])
    return is_about and is_another and (who["identity"] != "declared" or other["identity"] == "declared")


def _subject(before: Sequence[Record], number: int) -> Record:
    subject = before[number - 1] if 0 < number <= len(before) else None
    if subject is None or subject.kind not in ("review", "sign_off"):
        got = "no record of that number" if subject is None else f"a record of kind {subject.kind}"
        raise DecisionError(f"countersign: got {number}, which is {got}, expected a review or sign-off; see the ledger")
    if subject.kind == "review":
        last = find_decision(before, subject.body["life_id"], subject.body["run_id"])
        if last is not None and last.number != number:
            raise DecisionError(
                f"countersign: record {number} is not in force, {last.body['reviewer']['name']} has decided since "
                f"(record {last.number}); countersign that one"
            )
    return subject
