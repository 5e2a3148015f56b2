"""Nobody spoils a signed ledger: commands, the site and runs sign only with keys that may sign."""

import logging

import pytest
from typer.testing import CliRunner

from flows import cli
from flows.config import parse
from flows.reflag import begin_reflag
from review.evidence.signatures import introduce_key, revoke_key
from review.evidence.verify import verify
from stores import ledger
from stores.keys import load_key, load_public_key
from stores.ledger import LedgerError
from tasks.settings import AlertsConfig, PhrasesConfig

SIGN = ("--name", "Ann", "--role", "radiologist", "--meaning", "review", "--statement", "fit for use")


@pytest.fixture
def lake(runs, keys):
    """A lake whose ledger key one signed until it introduced key two, which revoked it."""
    lake, (one, two, _) = runs[0].lake, (load_key(keys / name) for name in ("one", "two", "evil"))
    public = {name: load_public_key(keys / f"{name}.pub") for name in ("one", "two", "evil")}
    introduce_key(lake, public["one"], one)
    introduce_key(lake, public["two"], one)
    revoke_key(lake, one.key_id, None, two)
    return lake


def run_command(lake, *arguments):
    result = CliRunner().invoke(cli.app, [*map(str, arguments), "--lake", str(lake)])
    return result.exit_code, " ".join(result.output.split())


def count_records(lake):
    return len(ledger.read_records(lake))


@pytest.mark.parametrize(("key", "why"), [("one", "which is revoked"), ("evil", "which was not introduced")])
@pytest.mark.parametrize(
    "command",
    [("sign", "latest", *SIGN), ("report", "latest"), ("compact", "latest"), ("review", "--no-browser", "--port", "0")],
    ids=lambda command: command[0],
)
def test_commands_sign_with_no_other_key(lake, keys, key, why, command):
    before = count_records(lake)
    code, text = run_command(lake, *command, "--key", keys / key)
    key_ids = [load_key(keys / name).key_id for name in (key, "two")]
    assert code == 2
    assert f"ledger: got the key {key_ids[0]}, {why}, expected one that may sign: {key_ids[1]}; " in text
    assert "m2ib-audit key add NEW.pub --key OLD" in text
    assert count_records(lake) == before
    assert verify(lake, "all", [load_public_key(keys / "one.pub")]).is_intact


def test_the_key_that_may_sign_signs(lake, keys):
    assert run_command(lake, "sign", "latest", *SIGN, "--key", keys / "two")[0] == 0
    assert verify(lake, "all", [load_public_key(keys / "one.pub")]).is_intact


def test_a_run_does_not_begin_with_another_key(lake, keys, phantoms, runs):
    settings = {"corpus": {"path": str(phantoms)}, "model": {"architecture": "demo/clean"}}
    config = parse(settings | {"lake": {"path": str(lake)}, "ledger": {"key": str(keys / "evil")}}, "AUDIT.toml")
    with pytest.raises(LedgerError, match="which was not introduced"):
        config.check()
    with pytest.raises(LedgerError, match="which is revoked"):
        begin_reflag(lake, runs[0].run_id, AlertsConfig(), PhrasesConfig(), load_key(keys / "one"))
    assert sorted(path.name for path in (lake / "runs").iterdir()) == sorted(run.run_id for run in runs)


def test_a_revoked_key_revokes_nothing(lake, keys):
    before, two = count_records(lake), load_key(keys / "two").key_id
    code, text = run_command(lake, "key", "revoke", two, "--key", keys / "one")
    assert (code, count_records(lake)) == (2, before)
    assert "which is revoked, expected another key of the ledger that may sign: none" in text
    code, text = run_command(lake, "key", "revoke", two, "--since", "2999-01-01", "--key", keys / "two")
    assert (code, count_records(lake)) == (2, before)
    assert "--since: got '2999-01-01', expected no later time than now" in text


def test_an_unsigned_record_among_signed_ones_is_logged_once(lake, caplog):
    before = count_records(lake)
    for _ in range(2):
        assert run_command(lake, "sign", "latest", *SIGN)[0] == 0
    (message,) = [each.getMessage() for each in caplog.records if each.levelno == logging.WARNING]
    assert "an unsigned record is added" in message
    assert "give the private key with --key, or [ledger] key in the AUDIT.toml" in message
    assert count_records(lake) == before + 2


def test_a_lake_whose_keys_are_all_revoked_says_so(runs, keys, monkeypatch):
    lake, one = runs[0].lake, load_key(keys / "one")
    public = load_public_key(keys / "one.pub")
    introduce_key(lake, public, one)
    ledger.append(lake, "key_revoked", {"key_id": public.key_id, "since": "2026-01-01T00:00:00+00:00"}, one)
    for command in (("key", "add", keys / "two.pub"), ("sign", "latest", *SIGN)):
        code, text = run_command(lake, *command, "--key", keys / "two")
        assert code == 2
        assert f"all keys of the lake are revoked ({public.key_id})" in text
        assert "continue in a new lake" in text
        assert "nothing is signed yet" not in text


def test_a_revocation_by_a_revoked_key_has_no_effect(lake, keys, monkeypatch):
    """Releases that allowed it wrote such records; the key that they revoke may still sign."""
    with monkeypatch.context() as patched:
        patched.setattr(ledger, "_check_signer", lambda *_: None)
        body = {"key_id": load_key(keys / "two").key_id, "since": "2026-01-01T00:00:00+00:00"}
        ledger.append(lake, "key_revoked", body, load_key(keys / "one"))
    assert run_command(lake, "sign", "latest", *SIGN, "--key", keys / "two")[0] == 0
