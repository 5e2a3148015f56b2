"""How a run begins, and which run may be gone on with."""

import contextlib
import re
import shutil
import subprocess
from importlib import metadata

import pytest

import sql
from flows import begin as flow
from flows import provenance
from flows.begin import begin
from tasks.errors import BadInputError, ResumeError


@pytest.fixture
def config(settings, phantoms, tmp_path):
    return settings(phantoms, tmp_path / "lake")


def started(config, resume=None):
    return begin(config, config.models(), resume)


def test_the_manifest_says_what_is_audited_with_what(config, phantoms):
    record = started(config).read_manifest()
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


def test_a_rule_of_one_s_own_is_checked_first_and_told(config, settings, phantoms, tmp_path):
    rules = tmp_path / "rules"
    rules.mkdir()
    (rules / "mine.sql").write_text("SELECT 1 AS region")
    with pytest.raises(BadInputError, match="rule mine: got the columns region, expected"):
        started(settings(phantoms, tmp_path / "lake", alerts={"rules": rules}))
    assert sql.read_manifests(tmp_path / "lake") == []
    text = "SELECT region, slice_kind, slice, n, share, area, effect FROM slice_shares"
    (rules / "mine.sql").write_text(text)
    record = started(settings(phantoms, tmp_path / "lake", alerts={"rules": rules})).read_manifest()
    assert record["rules"]["mine"] == record["config"]["alerts"]["rules"]["mine"] == sql.text_digest(text)


def test_a_lake_is_made_where_there_is_none_and_runs_sort_by_time(config):
    first, second = started(config), started(config)
    assert re.fullmatch(r"\d{8}T\d{6}-[0-9a-f]{9}", first.run_id)
    assert [record["run_id"] for record in sql.read_manifests(config.lake.path)] == [first.run_id, second.run_id]


@pytest.mark.parametrize("status", ["running", "failed", "stopped"])
def test_an_unfinished_run_goes_on(config, status):
    run = started(config)
    run.finish(status, "because")
    assert started(config, run.run_id) == run
    record = run.read_manifest()
    assert (record["status"], record["reason"], record["finished_at"]) == ("running", None, None)


def test_a_complete_run_does_not(config):
    run = started(config)
    run.finish("completed")
    with pytest.raises(ResumeError, match=f"run {run.run_id} is completed and .*; leave out --resume"):
        started(config, run.run_id)
    assert run.read_manifest()["status"] == "completed"


@pytest.mark.parametrize("status", ["completed", "completed_with_errors", "pruned"])
def test_a_run_that_is_completed_while_it_is_waited_for_stays_so(config, monkeypatch, status):
    run = started(config)

    @contextlib.contextmanager
    def held_after_another(_):
        run.finish(status, "because")
        yield

    monkeypatch.setattr(flow, "lock_run", held_after_another)
    with pytest.raises(ResumeError, match=f"run {run.run_id} is {status} and"):
        started(config, run.run_id)
    assert run.read_manifest()["status"] == status


def test_an_unknown_run_is_answered_with_those_that_are(config):
    run = started(config)
    with pytest.raises(ResumeError, match=f"got 'nonsense', expected an unfinished run of .*: {run.run_id}"):
        started(config, "nonsense")


@pytest.mark.parametrize("run_id", ["", ".", "..", "../..", "/etc", "../runs/{run_id}", "./{run_id}"])
def test_a_run_id_that_is_a_path_is_unknown(config, run_id):
    run = started(config)
    with pytest.raises(ResumeError, match="expected an unfinished run"):
        started(config, run_id.format(run_id=run.run_id))


@pytest.mark.parametrize(
    ("sections", "named"),
    [
        ({"bottleneck": {"seed": 1}}, "config_digest"),
        ({"alerts": {"factor": 3}}, "config_digest"),
        ({"regions": {"frame": 0.1}}, "config_digest"),
        ({"architecture": "demo/clean"}, "model_digest, config_digest"),
    ],
)
def test_a_run_that_began_with_something_else_does_not_go_on(config, settings, phantoms, sections, named):
    run = started(config)
    other = settings(phantoms, config.lake.path, **sections)
    with pytest.raises(ResumeError, match=f"began with a different {named}; start a new run"):
        started(other, run.run_id)


def test_another_corpus_is_something_else(config, settings, phantoms, tmp_path):
    run = started(config)
    shutil.copy(phantoms / "metadata.csv", tmp_path)
    with pytest.raises(ResumeError, match="began with a different corpus"):
        started(settings(tmp_path, config.lake.path), run.run_id)


def test_other_code_is_something_else(config, monkeypatch):
    run = started(config)
    monkeypatch.setattr(flow, "code_version", lambda: "another")
    with pytest.raises(ResumeError, match="began with a different code_version"):
        started(config, run.run_id)


def test_another_shard_or_batch_size_is_not(config, settings, phantoms):
    """Shards are cut at ingest: a resumed run keeps those that it has."""
    run = started(config)
    other = settings(phantoms, config.lake.path, lake={"shard_size": 3}, model={"batch_size": 2})
    assert started(other, run.run_id) == run


def test_resume_errors_are_bad_input():
    assert issubclass(ResumeError, BadInputError)


def test_the_code_s_version_has_the_commit_of_a_checkout():
    version = provenance.code_version()
    assert re.fullmatch(r"\d+\.\d+\S*\+g[0-9a-f]{7,}(\.dirty)?|\d+\.\d+\S*", version)


def test_the_code_s_version_without_git_is_the_package_s(monkeypatch):
    def no_git(*_, **__):
        raise FileNotFoundError("git")

    monkeypatch.setattr(subprocess, "run", no_git)
    assert provenance.code_version() == provenance.m2ib.version.__version__


def test_the_environment_names_what_can_change_a_figure():
    found = provenance.environment()
    assert found.keys() >= {"python", "machine", "torch", "numpy", "pillow", "open_clip_torch", "duckdb"}
    assert all(found.values())
