"""Verify the signatures of a ledger. A record of kind `key` introduces a key, one of kind `key_revoked` revokes it.

A key is introduced by a record that a trusted key signed, or that it signed itself where nothing was signed before.
Records before the first signature may be unsigned; later ones may not. Trusted are the keys that the verifier was
given, and those that they introduced. Without a given key, those that the ledger introduces are used, which proves
nothing about who wrote it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from review.evidence.decisions import DecisionError
from review.evidence.verify_result import KeyUse, VerifyResult
from stores import Root, ledger
from stores.keys import KeyFileError, PublicKey, SigningKey, parse_public_key
from stores.ledger import Record


@dataclass(frozen=True)
class _Revocation:
    since: datetime
    number: int

    def applies_to(self, record: Record) -> bool:
        return record.number > self.number or (record.number < self.number and _time(record) >= self.since)


def _time(record: Record) -> datetime:
    try:
        time = record.time
    except ValueError:  # reported elsewhere
        return datetime.max.replace(tzinfo=UTC)
    return time if time.tzinfo else time.replace(tzinfo=UTC)


class _Walk:
    """One pass over a ledger: which keys are trusted at each record, and what is wrong with its signature."""

    def __init__(self, given: Sequence[PublicKey], revocations: Mapping[str, _Revocation]) -> None:
        self.keys = {key.key_id: key for key in given}
        self.is_anchored = bool(given)
        self.revocations, self.found = revocations, dict[str, _Revocation]()
        self.introduced: dict[str, int] = {}
        self.first_signed: int | None = None
        self.unchecked: list[int] = []
        self.problems: list[tuple[int, str]] = []

    def check(self, record: Record) -> None:
        """Check the signature of the next record, and apply what it says about keys."""
        is_first = self.first_signed is None
        problem = self._find_problem(record)
        if record.signature is not None:
            self.first_signed = self.first_signed or record.number
        if record.kind == "key" and problem is None:
            problem = self._introduce(record, is_first)
        elif record.kind == "key_revoked" and problem is None:
            problem = self._revoke(record)
        if problem is not None:
            self.problems.append((record.number, problem))

    def _find_problem(self, record: Record) -> str | None:
        if record.signature is None:
            if self.is_anchored and self.first_signed is not None:
                return f"is not signed, although record {self.first_signed} before it is"
            return None
        key = self.keys.get(record.key_id or "") or self._own_key(record)
        if key is not None:
            return self._check_signature(record, key, record.signature)
        if self.is_anchored:
            return f"is signed with key {record.key_id}, expected {' or '.join(self.keys)}"
        self.unchecked.append(record.number)
        return None

    def _check_signature(self, record: Record, key: PublicKey, signature: str) -> str | None:
        if not key.verify(record.signed_bytes(), signature):
            return "has an invalid signature"
        revocation = self.revocations.get(key.key_id)
        if revocation is None or not revocation.applies_to(record):
            return None
        since = revocation.since.isoformat()
        return f"is signed with key {key.key_id}, which record {revocation.number} revokes from {since} on"

    def _own_key(self, record: Record) -> PublicKey | None:
        """Return the key that a record introduces and that may sign it, because nothing was signed before."""
        if record.kind != "key" or self.first_signed is not None or self.is_anchored:
            return None
        key = _parse(record)
        return key if key is not None and key.key_id == record.key_id else None

    def _introduce(self, record: Record, is_first: bool) -> str | None:
        key = _parse(record)
        if key is None or key.key_id != record.body.get("key_id"):
            return "does not contain the public key that it introduces"
        if record.signature is None:
            return "introduces a key without a signature, expected one with an earlier key, or with that key"
        if record.key_id == key.key_id and not is_first and key.key_id not in self.keys:
            return f"introduces key {key.key_id} with a signature of its own, although records before it are signed"
        if record.number not in self.unchecked:
            self.keys.setdefault(key.key_id, key)
        self.introduced.setdefault(key.key_id, record.number)
        return None

    def _revoke(self, record: Record) -> str | None:
        if record.signature is None:
            return "revokes a key without a signature"
        key_id, since = record.body.get("key_id"), record.body.get("since")
        try:
            start = datetime.fromisoformat(str(since))
        except ValueError:
            return None  # reported with its schema
        start = start if start.tzinfo else start.replace(tzinfo=UTC)
        self.found.setdefault(str(key_id), _Revocation(start, record.number))
        return None


def _parse(record: Record) -> PublicKey | None:
    try:
        return parse_public_key(str(record.body.get("public_key")))
    except KeyFileError:
        return None


def verify_signatures(records: Sequence[Record], given: Sequence[PublicKey], result: VerifyResult) -> None:
    """Verify the signatures of a ledger; add differences, notes and the use of each key to the result.

    Args:
        records: The readable records, oldest first.
        given: Public keys that the verifier trusts.
        result: Where to add what is found.
    """
    revocations = _walk(records, given, {}).found  # they also concern earlier records
    walk = _walk(records, given, revocations)
    for number, problem in walk.problems:
        result.add_record(number, problem)
    result.keys = _list_uses(records, given, walk)
    first, expected = walk.first_signed, " or ".join(sorted(key.key_id for key in given))
    if given and records and first is None:
        result.add_record(records[-1].number, f"is not signed, like all records before it, expected key {expected}")
    elif given and first not in (None, 1):
        result.notes.append(f"record {first} is the first that is signed; its signature covers the chain before it")
    elif not given and first is not None:
        signed = sum(record.signature is not None for record in records)
        result.notes.append(f"{signed} of {len(records)} records are signed; --public-key checks who signed them")


def _walk(records: Sequence[Record], given: Sequence[PublicKey], revocations: Mapping[str, _Revocation]) -> _Walk:
    walk = _Walk(given, revocations)
    for record in records:
        walk.check(record)
    return walk


def _list_uses(records: Sequence[Record], given: Sequence[PublicKey], walk: _Walk) -> list[KeyUse]:
    uses = {key.key_id: KeyUse(key.key_id, given=True) for key in given}
    for record in records:
        if record.key_id is not None:
            uses.setdefault(record.key_id, KeyUse(record.key_id)).records.append(record.number)
    for name, number in walk.introduced.items():
        uses.setdefault(name, KeyUse(name)).introduced = number
    for name, revocation in walk.revocations.items():
        uses.setdefault(name, KeyUse(name)).revoked = revocation.since.isoformat()
    return list(uses.values())


def introduce_key(lake: Root, public: PublicKey, signer: SigningKey) -> Record:
    """Record a public key in the ledger, signed with an earlier key or, where nothing was signed, with itself.

    Raises DecisionError if the ledger has the key already, or does not trust the signer.
    """

    def check(before: Sequence[Record]) -> None:
        signing, known = ledger.list_keys(before)
        if public.key_id in known:
            raise DecisionError(f"key: got {public.key_id}, expected a new one: the ledger has it already")
        if known and not signing:
            raise DecisionError(ledger.describe_no_keys(known))
        if known and signer.key_id not in signing:
            raise DecisionError(
                f"key: got the signer {signer.key_id}, expected one that the ledger trusts: {', '.join(signing)}; give "
                "its private key with --key"
            )
        if not known and signer.key_id != public.key_id:
            raise DecisionError(
                f"key: got the signer {signer.key_id}, expected the new key {public.key_id} itself, because nothing is "
                "signed yet; give its private key with --key"
            )

    return ledger.append(lake, "key", {"key_id": public.key_id, "public_key": public.encode()}, signer, check)


def revoke_key(lake: Root, key_id: str, since: str | None, signer: SigningKey) -> Record:
    """Record that a key is revoked from a time on; by default from now on. Raises DecisionError."""
    now = datetime.now(UTC)
    try:
        start = now if since is None else datetime.fromisoformat(since)
    except ValueError as error:
        raise DecisionError(f"--since: got {since!r}, expected a date such as 2026-01-31; enter it again") from error
    start = start if start.tzinfo else start.replace(tzinfo=UTC)
    if start > now:  # verification trusts no date of a record that follows the revocation
        raise DecisionError(f"--since: got {since!r}, expected no later time than now: a key is revoked at once")

    def check(before: Sequence[Record]) -> None:
        signing, known = ledger.list_keys(before)
        if key_id not in known:
            raise DecisionError(f"key: got {key_id!r}, expected a key of the ledger: {', '.join(known) or 'none'}")
        if signer.key_id == key_id or signer.key_id not in signing:
            others = ", ".join(each for each in signing if each != key_id) or "none; introduce one with key add"
            revoked = ", which is revoked" if signer.key_id in known and signer.key_id not in signing else ""
            raise DecisionError(
                f"key: got the signer {signer.key_id}{revoked}, expected another key of the ledger that may sign: "
                + others
            )

    return ledger.append(lake, "key_revoked", {"key_id": key_id, "since": start.isoformat()}, signer, check)
