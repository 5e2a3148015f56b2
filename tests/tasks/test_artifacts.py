"""Prefect artifacts: sanitized, updated at intervals, and a failure never fails the run."""

import re

import pytest

from tasks import messages as stage
from tasks.messages import Progress, artifact_key, format_summary, publish_outcome
from tasks.notify import store_alert_history


@pytest.fixture
def created_artifacts(monkeypatch):
    """The artifacts that were created: (kind, arguments)."""
    created = []
    for kind in ("create_progress", "update_progress", "create_markdown", "create_table", "create_link"):
        monkeypatch.setattr(stage, f"{kind}_artifact", lambda *args, kind=kind: created.append((kind, args)) or kind)
    return created


@pytest.fixture
def run_with_alert(hand_written_run):
    hand_written_run.add_pairs(["a consolidation"] * 4)
    hand_written_run.add_attributions([[1.0] * 4] * 4, (2, 2))
    hand_written_run.add_alerts({"slice_kind": "attribute", "slice": "site=<b>|x_y_z\n# [a](http://b)"})
    store_alert_history(hand_written_run, 3)
    hand_written_run.finish("completed_with_errors", "one *shard*")
    return hand_written_run


def test_keys_are_valid_and_the_same_for_all_runs_of_an_audit():
    facts = {"corpus": "s3://bucket/My Corpus_1/", "model": "hf-hub:org/Name"}
    key = artifact_key(facts, "summary")
    assert re.fullmatch("audit-summary-my-corpus-1-with-hf-hub-org-name-[0-9a-f]{6}", key)
    assert artifact_key(facts | {"run_id": "x"}, "summary") == key
    assert re.fullmatch("[a-z0-9-]+", artifact_key({"corpus": "/ä/{{", "model": "x" * 300}, "alerts"))


def test_progress_is_updated_every_few_seconds_at_most(hand_written_run, created_artifacts, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(stage.time, "monotonic", lambda: now[0])
    progress = Progress(hand_written_run, 20, 200)
    for shard in range(20):
        now[0] += 1
        progress.finish_shard(shard, 10)
    assert [args[1] for kind, args in created_artifacts if kind == "update_progress"] == [25.0, 50.0, 75.0, 100.0]
    assert created_artifacts[-1][1][2] == f"run {hand_written_run.run_id}: 20 of 20 shards, 200 of 200 pairs attributed"


def test_each_shard_is_logged_with_its_run(hand_written_run, created_artifacts, caplog):
    with caplog.at_level("INFO"):
        Progress(hand_written_run, 2, 20).finish_shard(1, 10)
    assert f"shard 1 has ended; run {hand_written_run.run_id}: 1 of 2 shards, 10 of 20 pairs attributed" in caplog.text


def test_outcome_is_published_as_summary_table_and_link(run_with_alert, created_artifacts):
    publish_outcome(run_with_alert)
    assert [kind for kind, _ in created_artifacts] == ["create_markdown", "create_table", "create_link"]
    (row,) = created_artifacts[1][1][0]
    assert (row["status"], row["state"], row["region"], row["concentration"]) == ("new", "suspected", "corner", "3")
    assert created_artifacts[2][1][0] == "file://" + str(run_with_alert.folder / "report.html").replace(
        " ", "%20"
    ).replace("'", "%27")


def test_untrusted_text_is_not_markup(run_with_alert, created_artifacts):
    publish_outcome(run_with_alert)
    page = created_artifacts[0][1][0]
    (line,) = [line for line in page.splitlines() if line.startswith("- ")]
    assert "site = ‹b›¦x\\_y\\_z \\# \\[a\\] (http: //b)" in line
    assert "one \\*shard\\*" in page
    assert f"# Run {run_with_alert.run_id}: completed with errors" in page


def test_summary_of_a_run_without_alerts(hand_written_run, created_artifacts):
    hand_written_run.finish("completed")
    publish_outcome(hand_written_run)
    assert "No alert is raised, and none has been resolved." in created_artifacts[0][1][0]
    assert format_summary(hand_written_run.read_manifest(), [], "/r").count("\n| 0 | 0 | 0 | 0 | 0 |") == 1


def test_a_server_that_is_down_does_not_fail_the_run(run_with_alert, monkeypatch, caplog):
    def raise_connection_error(*_):
        raise ConnectionError("no server")

    for kind in ("create_progress", "create_markdown"):
        monkeypatch.setattr(stage, f"{kind}_artifact", raise_connection_error)
    progress = Progress(run_with_alert, 1, 4)
    progress.finish_shard(0, 4)
    publish_outcome(run_with_alert)
    assert caplog.text.count("no server") >= 2
