"""How a run begins, and which runs can be resumed."""

import contextlib
import re
import shutil
import subprocess
from importlib import metadata

import pytest

import sql
from corpora import CorpusError
from flows import begin as flow
from flows import provenance
from flows.begin import begin, describe_history
from tasks.errors import BadInputError, ResumeError
from tasks.notify import store_alert_history


@pytest.fixture
def config(settings, phantoms, tmp_path):
    return settings(phantoms, tmp_path / "lake")


def begin_run(config, resume=None):
    return begin(config, config.models(), resume)


def test_manifest_records_corpus_model_and_settings(config, phantoms):
    record = begin_run(config).read_manifest()
    assert (record["status"], record["reason"], record["finished_at"]) == ("running", None, None)
    assert record["corpus"] == str(phantoms)
    assert record["config"] == config.resolve_settings()
    assert record["seed"] == 0
    assert record["model"] == "demo/shortcut"
    assert re.fullmatch("[0-9a-f]{64}", record["model_digest"])
    assert record["rules"] == {
        name: sql.text_digest(sql.query_text(f"rules/{name}")) for name in sql.query_names("rules")
    }
    assert record["environment"]["torch"] == metadata.version("torch")


def test_custom_rule_is_checked_before_the_run_and_recorded(config, settings, phantoms, tmp_path):
    rules = tmp_path / "rules"
    rules.mkdir()
    (rules / "mine.sql").write_text("SELECT 1 AS region")
    with pytest.raises(BadInputError, match="rule mine: got the columns region, expected"):
        begin_run(settings(phantoms, tmp_path / "lake", alerts={"rules": rules}))
    assert sql.read_manifests(tmp_path / "lake") == []
    text = "SELECT region, slice_kind, slice, n, share, area, effect FROM slice_shares"
    (rules / "mine.sql").write_text(text)
    record = begin_run(settings(phantoms, tmp_path / "lake", alerts={"rules": rules})).read_manifest()
    assert record["rules"]["mine"] == record["config"]["alerts"]["rules"]["mine"] == sql.text_digest(text)


def test_a_wrong_column_creates_no_run(config):
    corpus = config.corpus.model_copy(update={"caption_column": "report"})
    with pytest.raises(CorpusError, match="no column 'report'"):
        begin_run(config.model_copy(update={"corpus": corpus}))
    assert sql.read_manifests(config.lake.path) == []


def test_missing_lake_is_created_and_run_ids_sort_by_time(config):
    first, second = begin_run(config), begin_run(config)
    assert re.fullmatch(r"\d{8}T\d{6}-[0-9a-f]{9}", first.run_id)
    assert [record["run_id"] for record in sql.read_manifests(config.lake.path)] == [first.run_id, second.run_id]


@pytest.mark.parametrize("status", ["running", "failed", "stopped"])
def test_unfinished_run_can_be_resumed(config, status):
    run = begin_run(config)
    run.finish(status, "because")
    assert begin_run(config, run.run_id) == run
    record = run.read_manifest()
    assert (record["status"], record["reason"], record["finished_at"]) == ("running", None, None)


def test_complete_run_cannot_be_resumed(config):
    run = begin_run(config)
    run.finish("completed")
    with pytest.raises(ResumeError, match=f"run {run.run_id} is completed and .*; leave out --resume"):
        begin_run(config, run.run_id)
    assert run.read_manifest()["status"] == "completed"


@pytest.mark.parametrize("status", ["completed", "completed_with_errors", "pruned"])
def test_run_completed_while_waiting_for_its_lock_is_not_resumed(config, monkeypatch, status):
    run = begin_run(config)

    @contextlib.contextmanager
    def complete_run_before_lock(_):
        run.finish(status, "because")
        yield

    monkeypatch.setattr(flow, "lock_run", complete_run_before_lock)
    with pytest.raises(ResumeError, match=f"run {run.run_id} is {status} and"):
        begin_run(config, run.run_id)
    assert run.read_manifest()["status"] == status


def test_error_for_unknown_run_lists_unfinished_runs(config):
    run = begin_run(config)
    with pytest.raises(ResumeError, match=f"got 'nonsense', expected an unfinished run of .*: {run.run_id}"):
        begin_run(config, "nonsense")


@pytest.mark.parametrize("run_id", ["", ".", "..", "../..", "/etc", "../runs/{run_id}", "./{run_id}"])
def test_run_id_that_is_a_path_is_unknown(config, run_id):
    run = begin_run(config)
    with pytest.raises(ResumeError, match="expected an unfinished run"):
        begin_run(config, run_id.format(run_id=run.run_id))


@pytest.mark.parametrize(
    ("sections", "fields"),
    [
        ({"bottleneck": {"seed": 1}}, "config_digest"),
        ({"alerts": {"factor": 3}}, "config_digest"),
        ({"regions": {"frame": 0.1}}, "config_digest"),
        ({"architecture": "demo/clean"}, "model_digest, config_digest"),
    ],
)
def test_run_with_other_settings_cannot_be_resumed(config, settings, phantoms, sections, fields):
    run = begin_run(config)
    other = settings(phantoms, config.lake.path, **sections)
    with pytest.raises(ResumeError, match=f"began with a different {fields}; start a new run"):
        begin_run(other, run.run_id)


def test_run_with_other_corpus_cannot_be_resumed(config, settings, phantoms, tmp_path):
    run = begin_run(config)
    shutil.copy(phantoms / "metadata.csv", tmp_path)
    with pytest.raises(ResumeError, match="began with a different corpus"):
        begin_run(settings(tmp_path, config.lake.path), run.run_id)


def test_run_with_other_code_version_cannot_be_resumed(config, monkeypatch):
    run = begin_run(config)
    monkeypatch.setattr(flow, "code_version", lambda: "another")
    with pytest.raises(ResumeError, match="began with a different code_version"):
        begin_run(config, run.run_id)


def test_run_with_other_shard_or_batch_size_can_be_resumed(config, settings, phantoms):
    """Shards are cut at ingest: a resumed run keeps its shards."""
    run = begin_run(config)
    other = settings(phantoms, config.lake.path, lake={"shard_size": 3}, model={"batch_size": 2})
    assert begin_run(other, run.run_id) == run


def test_resume_errors_are_bad_input():
    assert issubclass(ResumeError, BadInputError)


def test_code_version_contains_the_commit_of_a_checkout():
    version = provenance.code_version()
    assert re.fullmatch(r"\d+\.\d+\S*\+g[0-9a-f]{7,}(\.dirty)?|\d+\.\d+\S*", version)


def test_code_version_without_git_is_the_package_version(monkeypatch):
    def raise_file_not_found(*_, **__):
        raise FileNotFoundError("git")

    monkeypatch.setattr(subprocess, "run", raise_file_not_found)
    assert provenance.code_version() == provenance.m2ib.version.__version__


def test_environment_lists_versions_that_can_change_results():
    environment = provenance.environment()
    assert environment.keys() >= {"python", "machine", "torch", "numpy", "pillow", "open_clip_torch", "duckdb"}
    assert all(environment.values())


def test_a_named_audit_resolves_alerts_that_another_model_does_not_raise(settings, phantoms, begin_pipeline, tmp_path):
    """The manifests of real runs: the model is part of their settings, and must not count as a change of them."""
    moved = shutil.copytree(phantoms, tmp_path / "moved")
    statuses = []
    for architecture, corpus in (("demo/shortcut", phantoms), ("demo/clean", moved)):
        options = {"audit": {"name": "prod"}, "bottleneck": {"steps": 10}, "confirm": {"enabled": False}}
        pipeline = begin_pipeline(settings(corpus, tmp_path / "lake", architecture, **options))
        pipeline.to_lake()
        pipeline.to_alerts()
        rows = store_alert_history(pipeline.run, 5)
        pipeline.run.finish("completed")
        statuses.append({row["life"]: row["why"] for row in rows})
    assert statuses[0].keys() == {"new"}
    assert statuses[1]["resolved"] == "its rule no longer raises it"
    assert "the settings are not those of the run that raised it" not in statuses[1].values()


def test_only_audits_of_the_same_corpus_or_model_are_suggested(add_next_run):
    for corpus, model in (("c", "m"), ("c", "other"), ("/other", "m"), ("/other", "other")):
        run = add_next_run(corpus=corpus, model=model)
    named = add_next_run(audit="prod", corpus="c", model="new")
    text = describe_history(run.lake, named.read_manifest())
    assert ("c with m" in text, "c with other" in text, "other with" in text) == (True, True, False)
    facts = {"audit_continues": "0" * 12, "corpus": "/new", "model": "m"}
    with pytest.raises(BadInputError, match=r"same corpus or model: \w{12} \(c with m\); \w{12} \(other with m\)$"):
        flow._check_audit(run.lake, facts)
