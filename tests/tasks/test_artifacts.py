"""Prefect artifacts: sanitized, updated at intervals, and a failure never fails the run."""

import re

import pytest

from tasks import messages as stage
from tasks.messages import Progress, artifact_key, format_summary, publish_outcome
from tasks.notify import store_alert_history


@pytest.fixture
def shown(monkeypatch):
    """The artifacts that were made: (kind, arguments)."""
    made = []
    for kind in ("create_progress", "update_progress", "create_markdown", "create_table", "create_link"):
        monkeypatch.setattr(stage, f"{kind}_artifact", lambda *given, kind=kind: made.append((kind, given)) or kind)
    return made


@pytest.fixture
def alerted(hand_written_run):
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


def test_progress_is_updated_every_few_seconds_at_most(hand_written_run, shown, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(stage.time, "monotonic", lambda: now[0])
    progress = Progress(hand_written_run, 20, 200)
    for shard in range(20):
        now[0] += 1
        progress.finish_shard(shard, 10)
    assert [given[1] for kind, given in shown if kind == "update_progress"] == [25.0, 50.0, 75.0, 100.0]
    assert shown[-1][1][2] == f"run {hand_written_run.run_id}: 20 of 20 shards, 200 of 200 pairs attributed"


def test_each_shard_is_logged_with_its_run(hand_written_run, shown, caplog):
    with caplog.at_level("INFO"):
        Progress(hand_written_run, 2, 20).finish_shard(1, 10)
    assert f"shard 1 has ended; run {hand_written_run.run_id}: 1 of 2 shards, 10 of 20 pairs attributed" in caplog.text


def test_the_outcome_is_a_summary_a_table_and_a_link(alerted, shown):
    publish_outcome(alerted)
    assert [kind for kind, _ in shown] == ["create_markdown", "create_table", "create_link"]
    (row,) = shown[1][1][0]
    assert (row["life"], row["state"], row["region"], row["effect"]) == ("new", "suspected", "corner", "3")
    assert shown[2][1][0] == "file://" + str(alerted.folder / "report.html").replace(" ", "%20").replace("'", "%27")


def test_untrusted_text_is_not_markup(alerted, shown):
    publish_outcome(alerted)
    page = shown[0][1][0]
    (line,) = [line for line in page.splitlines() if line.startswith("- ")]
    assert "site = ‹b›¦x\\_y\\_z \\# \\[a\\] (http: //b)" in line
    assert "one \\*shard\\*" in page
    assert f"# Run {alerted.run_id}: completed with errors" in page


def test_a_run_without_alerts_says_so(hand_written_run, shown):
    hand_written_run.finish("completed")
    publish_outcome(hand_written_run)
    assert "There is no independent alert" in shown[0][1][0]
    assert format_summary(hand_written_run.read_manifest(), [], "/r").count("\n| 0 | 0 | 0 | 0 | 0 |") == 1


def test_a_server_that_is_down_does_not_fail_the_run(alerted, monkeypatch, caplog):
    def gone(*_):
        raise ConnectionError("no server")

    for kind in ("create_progress", "create_markdown"):
        monkeypatch.setattr(stage, f"{kind}_artifact", gone)
    progress = Progress(alerted, 1, 4)
    progress.finish_shard(0, 4)
    publish_outcome(alerted)
    assert caplog.text.count("no server") >= 2
