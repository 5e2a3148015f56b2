"""An audit of the benchmark runs once per version of the code, with the defaults and without the ground truth."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

import flows.audit
from benchmarks.planted import audits, evaluation
from benchmarks.planted.evaluation import ArtifactResult, Evaluation
from benchmarks.planted.plan import create_clean_entry, create_model_entry
from benchmarks.planted.training import ROOT, get_folder
from flows.config import AuditConfig

ENTRY = create_model_entry("phantoms", "a", 1)
JUDGED = Evaluation({"logo": ArtifactResult(0.85, True, True, True, True, 0.5, 3, 0.4)}, ["stamp 1"], [], [], 7)


@pytest.fixture
def cache(tmp_path):
    for entry in (ENTRY, create_clean_entry("phantoms", 1)):
        get_folder(entry, tmp_path).mkdir(parents=True)
    return tmp_path


@pytest.fixture
def audit_configs(monkeypatch):
    """The configurations with which the audit was called."""
    configs = []

    def audit(config):
        configs.append(config)
        assert len(list(Path(config.corpus.path).glob("*.png"))) == 3
        return SimpleNamespace(run_id="x")

    monkeypatch.setattr(flows.audit, "audit", audit)
    monkeypatch.setattr(audits, "list_verdicts", lambda *_: [])
    monkeypatch.setattr(evaluation, "evaluate_alerts", lambda *_, **__: JUDGED)
    return configs


@pytest.fixture
def run(cache):
    def run(variant, by_twin=False):
        audits.run_audit(ENTRY, variant, by_twin, 3, cache, cache / "results.jsonl")
        return audits.read_outcomes(cache / "results.jsonl")

    return run


def test_an_outcome_is_a_line_and_not_computed_again(run, cache, audit_configs, capsys):
    (outcome,) = run("planted")
    assert run("planted") == [outcome]
    assert len(audit_configs) == 1
    assert outcome.evaluation == JUDGED
    assert (outcome.entry, outcome.tower, outcome.pairs) == (ENTRY.name, "convolutional", 3)
    assert outcome.model == get_folder(ENTRY, cache).name
    assert "'stamp 1'] confirmed" in capsys.readouterr().out
    assert len((cache / "results.jsonl").read_text().splitlines()) == 1


def test_an_outcome_of_other_code_is_kept_and_does_not_count(run, cache, audit_configs, monkeypatch):
    (old,) = run("planted")
    monkeypatch.setattr(audits, "compute_digest", lambda: "another")
    both = run("planted")
    assert len(audit_configs) == len(both) == 2
    assert list(audits.select_outcomes(both, [ENTRY], 3, cache)) == [both[1]]
    monkeypatch.undo()
    assert list(audits.select_outcomes(both, [ENTRY], 3, cache)) == [old]


def test_an_outcome_of_another_model_does_not_count(run, cache, audit_configs):
    run("planted")
    lines = (cache / "results.jsonl").read_text()
    (cache / "results.jsonl").write_text(json.dumps(json.loads(lines) | {"model": "0"}) + "\n")
    run("planted")
    assert len(audit_configs) == 2


def test_the_twin_is_audited_on_the_same_corpus_by_the_same_defaults(run, cache, audit_configs):
    run("planted")
    assert [one.by_twin for one in run("planted", by_twin=True)] == [False, True]
    own, twin = audit_configs
    assert own.model.architecture == f"local-dir:{get_folder(ENTRY, cache).resolve()}"
    assert twin.model.architecture == f"local-dir:{get_folder(create_clean_entry('phantoms', 1), cache).resolve()}"
    for config in audit_configs:
        plain = AuditConfig(corpus=config.corpus, model=config.model, lake=config.lake, confirm={"self_audit": 0})
        assert config == plain  # only paths are set, and what changes no alert


def test_twins_are_audited_where_alerts_are_to_be_found():
    own, twins = ({variant for variant, by_twin in audits.AUDITS if by_twin is which} for which in (False, True))
    assert own == {"planted", "bare", "crossed", "repeated", "binary"}
    assert twins == {"planted", "repeated", "binary"}


def test_the_version_covers_the_code_that_decides():
    assert all((ROOT / name).exists() for name in audits._DECISIVE)
    assert audits.compute_digest() == audits.compute_digest.__wrapped__()


def test_committed_outcomes_can_be_read():
    outcomes = audits.read_outcomes()
    assert len({(one.entry, one.variant, one.by_twin, one.pairs, one.model, one.code) for one in outcomes}) == len(
        outcomes
    )
