"""What people make of alerts: decisions, second signatures and sign-offs, each a record of the lake's ledger.

Nothing is overwritten: whoever decides again adds a record, and the view `triage` says which decision is in force.
"""

import hashlib
import unicodedata
from collections.abc import Sequence
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
_COMPLETE: Final = ("completed", "completed_with_errors")
_JUDGED: Final = (
    *("state", "severity", "n", "share", "area", "effect", "score_effect", "score_low", "score_high", "margin"),
    *("rule_digest", "config_digest"),
)


class TriageError(Exception):
    """A decision or signature that is not taken; the message says what, got, expected, next step."""


@dataclass(frozen=True)
class Reviewer:
    """Who decides or signs; identity: how that is known, one of IDENTITIES."""

    name: str
    role: str
    identity: str

    def is_same(self, name: str) -> bool:
        """Whether a name is this person's, however it is written."""
        return ledger.person(self.name) == ledger.person(name)


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
    seen: number of the review that the reviewer saw as the last one of this alert, 0 for none.

    Raises:
        TriageError: something is missing or none of what it can be, the alert is not in the run, or somebody else has
            decided since.
        sql.LakeError: the lake or its ledger cannot be read or written.
    """
    said = _said("reason", reason)
    _check(reviewer, meaning)
    _one_of("decision", decision, DECISIONS)
    if decision == "waived":
        if until is None or until < datetime.now(UTC).date():
            raise TriageError(
                f"until: got {until or 'nothing'}, expected the last day of the waiver, today (UTC) or later; name it"
            )
    elif until is not None:
        raise TriageError(
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
        last = _last_review(before, life["life_id"])
        if seen is not None and last is not None and last.number > seen:
            who, what = last.body["reviewer"]["name"], last.body["decision"]
            raise TriageError(
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
        TriageError: there is no such record, it is the reviewer's own, was countersigned, or is not in force any more.
        sql.LakeError: the ledger cannot be read or written.
    """
    _check(reviewer, meaning)
    said = _said("statement", statement) if statement.strip() else ""

    def check(before: Sequence[Record]) -> None:
        subject = _subject(before, number)
        if reviewer.is_same(subject.body["reviewer"]["name"]):
            raise TriageError(
                f"countersign: record {number} is {reviewer.name}'s own, expected another person's; ask somebody else"
            )
        for other in ledger.of_kind(before, "countersign"):
            if other.body["record"] == number:
                raise TriageError(
                    f"countersign: record {number} was countersigned by {other.body['reviewer']['name']} (record "
                    f"{other.number}), expected one that was not; there is nothing left to do"
                )

    before = ledger.records(lake)
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
) -> Record:
    """Record that a reviewer signs a run off, with what was open then, and return the record.

    Raises:
        TriageError: something is missing or none of what it can be, or the run is not a complete one.
        sql.LakeError: the lake or its ledger cannot be read or written.
    """
    said = _said("statement", statement)
    _check(reviewer, meaning)
    manifest, digest = _manifest(lake, run_id)
    with sql.connect(lake) as connection:
        (counts,) = sql.rows(connection, "review/triage_counts", run_id=run_id)
    body = {
        "run_id": run_id,
        "meaning": meaning,
        "statement": said,
        "four_eyes": four_eyes or bool(manifest.get("four_eyes")),
        "reviewer": asdict(reviewer),
        "manifest_sha256": digest,
        "alerts": counts,
    }
    return _appended(lake, "sign_off", body, signer, None)


def _appended(lake: Root, kind: str, body: dict[str, Any], signer: Signer | None, check: Any) -> Record:
    try:
        return ledger.append(lake, kind, body, signer, check)
    except OSError as error:
        raise sql.LakeError(
            f"ledger: nothing was recorded ({error.strerror or error}); see to the lake's space and permissions"
        ) from error


def _one_of(what: str, given: str, expected: Sequence[str]) -> None:
    if given not in expected:
        raise TriageError(f"{what}: got {given!r}, expected one of {', '.join(expected)}; choose one")


def _check(reviewer: Reviewer, meaning: str) -> None:
    _one_of("meaning", meaning, MEANINGS)
    _one_of("identity", reviewer.identity, IDENTITIES)
    for what, given in (("name", reviewer.name), ("role", reviewer.role)):
        if not given.strip() or len(given) > _NAME_CHARS or not given.isprintable():
            raise TriageError(
                f"{what}: got {given[:_NAME_CHARS]!r}, expected one line of at most {_NAME_CHARS} characters; say who "
                "signs"
            )
        if (hidden := ledger.disguise(given)) is not None:
            raise TriageError(f"{what}: got {hidden}, expected letters of one script, all to be seen; type it anew")


def _said(what: str, text: str) -> str:
    """A text as it is recorded: without white space around it. Raises TriageError for one that cannot be."""
    said = text.replace("\r\n", "\n").strip()
    if not said:
        raise TriageError(f"{what}: got nothing, expected why; an auditor reads it years from now: write it down")
    if len(said) > REASON_CHARS:
        raise TriageError(f"{what}: got {len(said)} characters, expected {REASON_CHARS} at most; shorten it")
    if any(unicodedata.category(mark) in ("Cc", "Cs") and mark not in "\n\t" for mark in said):
        raise TriageError(f"{what}: got control characters, expected text; remove them")
    return said


def _manifest(lake: Root, run_id: str) -> tuple[dict[str, Any], str]:
    """The manifest of a complete run, and its sha256. Raises TriageError."""
    known = {record["run_id"]: record for record in sql.manifests(lake)}
    found = known.get(run_id)
    if found is None or found["status"] not in _COMPLETE:
        got = repr(run_id) if found is None else f"{run_id!r}, which is {found['status']}"
        newest = ", ".join([name for name, record in known.items() if record["status"] in _COMPLETE][:-6:-1]) or "none"
        raise TriageError(f"run: got {got}, expected a complete run of {lake}: {newest}; name one of these")
    return found, hashlib.sha256(stores.contents(lake / "runs" / run_id / "manifest.json")).hexdigest()


def _life(lake: Root, run_id: str, alert_id: str) -> dict[str, Any]:
    with sql.connect(lake, run_id) as connection:
        found = sql.rows(connection, "review/life_of_alert", run_id=run_id, alert_id=alert_id)
    if not found:
        raise TriageError(
            f"alert: got {alert_id!r}, expected an alert of run {run_id}; see m2ib-audit alerts --run {run_id}"
        )
    return found[0]


def _last_review(before: Sequence[Record], life_id: str) -> Record | None:
    reviews = (record for record in reversed(before) if record.kind == "review" and record.body["life_id"] == life_id)
    return next(reviews, None)


def _subject(before: Sequence[Record], number: int) -> Record:
    subject = before[number - 1] if 0 < number <= len(before) else None
    if subject is None or subject.kind not in ("review", "sign_off"):
        got = "no record of that number" if subject is None else f"a record of kind {subject.kind}"
        raise TriageError(f"countersign: got {number}, which is {got}, expected a review or sign-off; see the ledger")
    if subject.kind == "review":
        last = _last_review(before, subject.body["life_id"])
        if last is not None and last.number != number:
            raise TriageError(
                f"countersign: record {number} is not in force, {last.body['reviewer']['name']} has decided since "
                f"(record {last.number}); countersign that one"
            )
    return subject
