"""The end of every run is recorded in the lake's ledger."""

import hashlib

import pytest

import sql
import stores
from flows import lifecycle
from flows.config import parse
from review.report.html import write_report
from stores import ledger
from stores.keys import KeyFileError, create_key
from tasks.lake.journal import record_run_end
from tasks.settings import NotifyConfig


@pytest.fixture
def run(no_prefect, hand_written_run):
    return hand_written_run


def list_records(run):
    return [(record.kind, record.body.get("status")) for record in ledger.read_records(run.lake)]


def manifest_sha256(run):
    return hashlib.sha256(stores.read_bytes(run.folder / "manifest.json")).hexdigest()


def test_the_end_of_a_run_is_recorded_with_the_digest_of_its_manifest(run):
    with lifecycle.run_lifecycle(run, NotifyConfig()):
        run.finish("completed")
    (record,) = ledger.read_records(run.lake)
    assert record.body == {"run_id": run.run_id, "status": "completed", "manifest_sha256": manifest_sha256(run)}


@pytest.mark.parametrize(("error", "status"), [(ValueError, "failed"), (KeyboardInterrupt, "interrupted")])
def test_a_failed_run_is_recorded_once_and_again_after_it_is_resumed(run, error, status):
    with pytest.raises(error), lifecycle.run_lifecycle(run, NotifyConfig()):
        raise error
    lifecycle.abort(run, error(), NotifyConfig())  # aborting again changes nothing
    assert list_records(run) == [("run", status)]
    run.update(status="running", reason=None, finished_at=None)
    with lifecycle.run_lifecycle(run, NotifyConfig()):
        run.finish("completed_with_errors", "some")
    assert list_records(run) == [("run", status), ("run", "completed_with_errors")]
    assert ledger.read_records(run.lake)[-1].body["manifest_sha256"] == manifest_sha256(run)


def test_a_damaged_ledger_does_not_fail_the_run(run, caplog):
    record_run_end(run)
    stores.write_bytes(run.lake / "ledger" / "HEAD", b"{}")
    with lifecycle.run_lifecycle(run, NotifyConfig()):
        run.finish("completed")
    assert run.read_manifest()["status"] == "completed"
    assert "could not be recorded in the lake's ledger" in caplog.text


def test_the_report_is_recorded_once(run):
    run.add_pairs(["a caption"])
    run.finish("completed")
    lifecycle.conclude(run)
    lifecycle.conclude(run)
    digest = hashlib.sha256(write_report(run.lake, run.run_id).read_bytes()).hexdigest()
    bodies = [record.body for record in ledger.select_kinds(ledger.read_records(run.lake), "report")]
    assert [(body["run_id"], body["sha256"]) for body in bodies] == [(run.run_id, digest)]


def test_rewrite_is_recorded_before_the_manifest_changes(run, monkeypatch):
    run.finish("completed")
    record_run_end(run)
    before = manifest_sha256(run)
    run.rewrite("compacted", "why", files=[])
    _, record = ledger.read_records(run.lake)
    assert record.kind == "rewrite"
    assert record.body == {
        "run_id": run.run_id, "what": "compacted", "before_sha256": before, "manifest_sha256": manifest_sha256(run),
    }  # fmt: skip
    now = manifest_sha256(run)
    stores.write_bytes(run.lake / "ledger" / "HEAD", b"{}")
    with pytest.raises(sql.LakeError, match="HEAD does not have the number"):
        run.rewrite("pruned", "why", files=[])
    assert manifest_sha256(run) == now


def test_a_configured_key_signs_the_records(run, tmp_path):
    public = create_key(tmp_path / "key")
    config = {"corpus": {"path": "x"}, "model": {"architecture": "m"}, "ledger": {"key": tmp_path / "key"}}
    with lifecycle.run_lifecycle(run, NotifyConfig(), parse(config, "test").ledger.signer()):
        run.finish("completed")
    (record,) = ledger.read_records(run.lake)
    assert public.verify(record.signed_bytes(), record.signature)
    (tmp_path / "key").chmod(0o644)
    with pytest.raises(KeyFileError, match=r"key: .* may be used by others"):
        parse(config, "test").ledger.signer()


def test_key_and_four_eyes_do_not_change_the_settings_of_results():
    config = {"corpus": {"path": "x"}, "model": {"architecture": "m"}}
    changed = parse(config | {"ledger": {"key": "key"}, "review": {"four_eyes": True}}, "test")
    assert changed.resolve_settings() == parse(config, "test").resolve_settings()
