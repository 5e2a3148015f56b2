"""Record decisions, second signatures, sign-offs and names of overlays in the ledger of the lake.

Nothing is overwritten: a new decision is a new record. The view `triage` has the decision that is in force.
"""

import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime
from typing import Any, Final, TypeVar

import sql
import stores
from review.presentation.formatting import (
    DECISION_DESCRIPTIONS,
    IDENTITY_LABELS,
    MEANING_LABELS,
    format_decision,
)
from stores import InputError, Root, ledger
from stores.keys import SigningKey
from stores.ledger import Record
from stores.look_alikes import is_alike
from stores.run_records import describe_unrecorded, list_recorded, read_recorded

_Result = TypeVar("_Result")

MAX_REASON_CHARS: Final = 4000
MAX_OVERLAY_NAME_CHARS: Final = 60
_MAX_NAME_CHARS: Final = 200
_EVIDENCE_COLUMNS: Final = (
    *("state", "severity", "n", "share", "area", "effect", "score_effect", "score_low", "score_high", "margin"),
    *("severity_high", "recent", "rule_digest", "config_digest"),
)


class DecisionError(InputError):
    """A decision or signature was refused; the message says what was wrong and what to do next."""


@dataclass(frozen=True)
class Reviewer:
    """A person who decides or signs; `identity` is a key of IDENTITY_LABELS: how the person was identified."""

    name: str
    role: str
    identity: str

    def is_same(self, name: str) -> bool:
        """Return whether a name is this person's, or looks like it."""
        return is_alike(self.name, name)


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
    signer: SigningKey | None = None,
    seen: int | None = None,
) -> Record:
    """Record a decision about an alert, with the figures of the alert, and return the record. Raises DecisionError.

    Args:
        lake: Folder or URL of the lake.
        reviewer: The person who decides.
        run_id: Id of a complete run.
        alert_id: Id of an alert of this run.
        decision: A key of DECISION_DESCRIPTIONS.
        reason: Reason for the decision; required.
        meaning: Meaning of the signature, a key of MEANING_LABELS.
        until: Last day of a waiver; required for the decision `waived`, not allowed for others.
        four_eyes: Require a second signature, even if the configuration of the run does not.
        signer: Key that signs the record.
        seen: Record number of the last decision that the reviewer saw, 0 for none; a newer decision is an error.
    """
    reason = _clean_text("reason", reason)
    _check_reviewer(reviewer, meaning)
    _check_choice("decision", decision, DECISION_DESCRIPTIONS)
    today = datetime.now(UTC).date()
    if (until is not None) != (decision == "waived") or (until is not None and until < today):
        raise DecisionError(
            f"until: got {until or 'nothing'} with decision {format_decision(decision)!r}, expected the last day of "
            f"the waiver, today ({today} in UTC) or later, for a waiver, and nothing with other decisions; correct it"
        )
    manifest, digest = _load_manifest(lake, run_id)
    history = _load_history(lake, run_id, alert_id)
    body = {
        "run_id": run_id,
        "alert_id": alert_id,
        "life_id": history["life_id"],
        "decision": decision,
        "reason": reason,
        "until": None if until is None else until.isoformat(),
        "meaning": meaning,
        "four_eyes": four_eyes or bool(manifest.get("four_eyes")),
        "reviewer": asdict(reviewer),
        "evidence": {key: history[key] for key in _EVIDENCE_COLUMNS}
        | {"model_digest": manifest.get("model_digest"), "corpus_digest": manifest.get("corpus_digest")}
        | {"manifest_sha256": digest},
    }

    def check(before: Sequence[Record]) -> None:
        last = find_decision(before, history["life_id"], run_id)
        if seen is not None and last is not None and last.number > seen:
            who, what = last.body["reviewer"]["name"], format_decision(last.body["decision"], last.body["until"])
            raise DecisionError(
                f"decision: {who} has decided {what!r} meanwhile (record {last.number}), expected no newer decision; "
                "review that decision, and decide again"
            )

    return ledger.append(lake, "review", body, signer, check)


def countersign(
    lake: Root,
    reviewer: Reviewer,
    number: int,
    meaning: str,
    statement: str = "",
    *,
    signer: SigningKey | None = None,
) -> Record:
    """Record a second signature under a decision or sign-off (record `number`), and return the new record.

    Raises DecisionError if the record does not exist, is signed by the same reviewer, is countersigned already, is not
    in force, or has a signer who was identified more strongly than this reviewer.
    """
    _check_reviewer(reviewer, meaning)
    statement = _clean_text("statement", statement) if statement.strip() else ""

    def check(before: Sequence[Record]) -> None:
        subject = _find_subject(before, number)
        if reviewer.is_same(subject.body["reviewer"]["name"]):
            raise DecisionError(
                f"countersign: got {reviewer.name!r}, but record {number} is signed by "
                f"{subject.body['reviewer']['name']!r}, the same name or one that looks like it, expected a second "
                "signer; ask another reviewer"
            )
        if reviewer.identity == "declared" and (identity := subject.body["reviewer"]["identity"]) != "declared":
            raise DecisionError(
                f"countersign: got a declared identity, expected a verified one, like that of the first signer of "
                f"record {number} ({identity}); sign in, and countersign on the site"
            )
        for other in ledger.select_kinds(before, "countersign"):
            if is_valid_countersign(other, subject):
                raise DecisionError(
                    f"countersign: record {number} was countersigned by {other.body['reviewer']['name']} (record "
                    f"{other.number}), expected a record without a second signature; nothing is left to do"
                )

    before = ledger.read_records(lake)
    check(before)
    body = {
        "record": number,
        "record_sha256": before[number - 1].sha256,
        "meaning": meaning,
        "statement": statement,
        "reviewer": asdict(reviewer),
    }
    return ledger.append(lake, "countersign", body, signer, check)


def sign_off(
    lake: Root,
    reviewer: Reviewer,
    run_id: str,
    meaning: str,
    statement: str,
    *,
    four_eyes: bool = False,
    signer: SigningKey | None = None,
    seen: int | None = None,
) -> Record:
    """Record the sign-off of a run, with the number of its open alerts, and return the record. Raises DecisionError.

    `four_eyes` requires a second signature, even if the configuration of the run does not. `seen` is the number of the
    last ledger record that the reviewer saw, by default the last of the ledger; a newer decision or signature is an
    error.
    """
    statement = _clean_text("statement", statement)
    _check_reviewer(reviewer, meaning)
    manifest, digest = _load_manifest(lake, run_id)
    last = len(ledger.read_records(lake)) if seen is None else seen
    counts, problem = query_decisions(
        lake, manifest, lambda connection: sql.rows(connection, "review/decision_counts", run_id=run_id)[0]
    )
    body = {
        "run_id": run_id,
        "meaning": meaning,
        "statement": statement,
        "four_eyes": four_eyes or bool(manifest.get("four_eyes")),
        "reviewer": asdict(reviewer),
        "manifest_sha256": digest,
        "alerts": counts,
    }
    if problem is not None:
        body["gap"] = problem  # why decisions of earlier runs may be missing

    def check(before: Sequence[Record]) -> None:
        for record in ledger.select_kinds(before[last:], "review", "countersign", "sign_off"):
            raise DecisionError(
                f"sign-off: {record.body['reviewer']['name']} has decided or signed meanwhile (record {record.number}),"
                " expected no newer record; review that record, and sign again"
            )

    return ledger.append(lake, "sign_off", body, signer, check)


def name_overlay(
    lake: Root, reviewer: Reviewer, run_id: str, region: str, name: str, *, signer: SigningKey | None = None
) -> Record:
    """Record the name that a reviewer gives to a recurring overlay of a run, and return the record.

    The name is shown next to the number of the overlay, also in other runs of the audit. The newest name counts.

    Raises:
        DecisionError: The name or the reviewer is invalid, or the run has no such overlay.
    """
    _check_reviewer(reviewer)
    name = " ".join(name.split())
    if not 0 < len(name) <= MAX_OVERLAY_NAME_CHARS or not name.isprintable():
        raise DecisionError(
            f"name: got {name[:MAX_OVERLAY_NAME_CHARS]!r}, expected one line of at most {MAX_OVERLAY_NAME_CHARS} "
            "characters, such as PORT tag; enter it again"
        )
    _load_manifest(lake, run_id)
    with sql.connect(lake, run_id) as connection:
        known = [row["region"] for row in sql.rows(connection, "review/overlays_of_run", run_id=run_id)]
    if region not in known:
        raise DecisionError(
            f"overlay: got {region!r}, expected one of run {run_id}: {', '.join(known) or 'none'}; choose one"
        )
    body = {"run_id": run_id, "region": region, "name": name, "reviewer": asdict(reviewer)}
    return ledger.append(lake, "name", body, signer)


def query_decisions(
    lake: Root, manifest: Mapping[str, Any], query: Callable[[sql.Connection], _Result]
) -> tuple[_Result, str | None]:
    """Query a run together with the earlier runs of its audit, because their decisions can still hold.

    Returns:
        The result of the query; and why decisions of earlier runs may be missing, or None. Earlier runs that cannot be
        read are left out, because they may belong to a different audit.
    """
    run_id = manifest["run_id"]
    known = read_recorded(lake)
    names = known.sort({*filter(sql.is_id, stores.list_folders(lake / "runs")), run_id})
    names = names[: names.index(run_id)]
    damage: dict[str, str] = {}
    records = sql.read_manifests(lake, names[0], names[1:], damage, known) if names else []
    problem = next(iter(damage.values()), None)
    audit = {key: manifest.get(key) for key in ("corpus", "model")}
    earlier = [record["run_id"] for record in records if audit.items() <= record.items() and _is_usable(record)]
    try:
        with sql.connect(lake, run_id, earlier, with_decisions=True) as connection:
            return query(connection), problem
    except sql.LakeError as error:  # another run is damaged; this one can still be reported and signed off
        with sql.connect(lake, run_id, with_decisions=True) as connection:
            return query(connection), str(error)


def _check_choice(field: str, value: str, expected: Iterable[str]) -> None:
    if value not in expected:
        raise DecisionError(f"{field}: got {value!r}, expected one of {', '.join(expected)}; choose one")


def _check_reviewer(reviewer: Reviewer, meaning: str | None = None) -> None:
    if meaning is not None:
        _check_choice("meaning", meaning, MEANING_LABELS)
    _check_choice("identity", reviewer.identity, IDENTITY_LABELS)
    for field, value in (("name", reviewer.name), ("role", reviewer.role)):
        if not value.strip() or len(value) > _MAX_NAME_CHARS or not value.isprintable():
            raise DecisionError(
                f"{field}: got {value[:_MAX_NAME_CHARS]!r}, expected one line of at most {_MAX_NAME_CHARS} characters; "
                "enter it again"
            )
        if (disguise := ledger.describe_disguise(value)) is not None:
            raise DecisionError(f"{field}: got {disguise}, expected visible letters of one script; enter it again")


def _clean_text(field: str, text: str) -> str:
    """Return a text without surrounding white space. Raises DecisionError if it is empty, too long or unprintable."""
    text = text.replace("\r\n", "\n").strip()
    problem = None if text else "nothing"
    if len(text) > MAX_REASON_CHARS:
        problem = f"{len(text)} characters"
    elif any(unicodedata.category(mark) in ("Cc", "Cs") and mark not in "\n\t" for mark in text):
        problem = "control characters"
    if problem is not None:
        raise DecisionError(
            f"{field}: got {problem}, expected a text of at most {MAX_REASON_CHARS} characters that an auditor "
            "understands later; write it again"
        )
    return text


def _load_manifest(lake: Root, run_id: str) -> tuple[dict[str, Any], str]:
    """Return the manifest of a complete, recorded run, and its sha256. Raises DecisionError for another one."""
    known = list_recorded(ledger.read_records(lake))
    names = known.sort(stores.list_folders(lake / "runs"))
    # Only this manifest is read: others may be damaged.
    manifest = next(iter(sql.read_manifests(lake, run_id, known=known) if run_id in names else ()), None)
    if manifest is None or not sql.is_complete(manifest):
        got = repr(run_id) if manifest is None else f"{run_id!r}, which is {manifest['status']}"
        complete = [one["run_id"] for one in sql.read_manifests(lake) if _is_usable(one)]
        newest = ", ".join(complete[:-6:-1]) or "none"
        raise DecisionError(f"run: got {got}, expected a complete run of {lake}: {newest}; choose one")
    if not sql.is_trusted(manifest):
        raise DecisionError(f"run: {run_id} {describe_unrecorded(lake, run_id)}")
    return manifest, sql.manifest_sha256(lake, run_id)


def _is_usable(manifest: Mapping[str, Any]) -> bool:
    return sql.is_complete(manifest) and sql.is_trusted(manifest)


def _load_history(lake: Root, run_id: str, alert_id: str) -> dict[str, Any]:
    with sql.connect(lake, run_id) as connection:
        rows = sql.rows(connection, "review/alert_history_of_run", run_id=run_id, alert_id=alert_id)
    if not rows:
        raise DecisionError(
            f"alert: got {alert_id!r}, expected an alert of run {run_id}; list them with: "
            + stores.format_command(lake, "alerts", run_id)
        )
    return rows[0]


def find_decision(before: Sequence[Record], life_id: str, run_id: str) -> Record | None:
    """Return the decision in force about an alert in a run, None if there is none, by the rules of the view `triage`.

    Among decisions made in this run or in earlier runs, it is the last one made in the newest of these runs.
    """
    reviews = [record for record in before if record.kind == "review" and record.body["life_id"] == life_id]
    runs = list_recorded(before).sort({run_id, *(record.body["run_id"] for record in reviews)})
    place = {name: number for number, name in enumerate(runs)}
    known = [record for record in reviews if place[record.body["run_id"]] <= place[run_id]]
    return max(known, key=lambda record: (place[record.body["run_id"]], record.number), default=None)


def is_valid_countersign(countersign: Record, subject: Record) -> bool:
    """Return whether the second signature of a decision or sign-off is valid, by the rules of the view `countersigned`.

    The second signer must be another person, whose name does not look like that of the first, and who was identified at
    least as strongly: a declared name adds nothing to a signature with a password.
    """
    body, who, other = countersign.body, countersign.body["reviewer"], subject.body["reviewer"]
    is_about = body["record"] == subject.number and body["record_sha256"] == subject.sha256
    is_another = not is_alike(who["name"], other["name"])
    return is_about and is_another and (who["identity"] != "declared" or other["identity"] == "declared")


def _find_subject(before: Sequence[Record], number: int) -> Record:
    subject = before[number - 1] if 0 < number <= len(before) else None
    if subject is None or subject.kind not in ("review", "sign_off"):
        got = "which does not exist" if subject is None else f"which is of kind {subject.kind}"
        raise DecisionError(f"countersign: got record {number}, {got}, expected a decision or sign-off; see the ledger")
    if subject.kind == "review":
        last = find_decision(before, subject.body["life_id"], subject.body["run_id"])
        if last is not None and last.number != number:
            raise DecisionError(
                f"countersign: record {number} is not in force, since {last.body['reviewer']['name']} decided later "
                f"(record {last.number}); countersign that record"
            )
    return subject
