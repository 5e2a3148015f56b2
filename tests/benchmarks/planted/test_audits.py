"""An audit of the benchmark runs once per version of the code, with the defaults and without the ground truth."""

from pathlib import Path
from types import SimpleNamespace

import pytest

import flows.audit
from benchmarks.planted import audits, evaluation
from benchmarks.planted.evaluation import ArtifactResult, Evaluation
from benchmarks.planted.plan import create_clean_entry, create_model_entry
from benchmarks.planted.training import get_folder
from flows.config import AuditConfig

ENTRY = create_model_entry("phantoms", "a", 1)
JUDGED = Evaluation({"logo": ArtifactResult(True, True, True, 0.5, 3, 0.4)}, ["stamp 1"], [], [], 7)


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
    monkeypatch.setattr(evaluation, "evaluate_alerts", lambda *_: JUDGED)
    return configs


def test_an_outcome_is_stored_and_not_computed_again(cache, audit_configs, capsys):
    for _ in range(2):
        audits.run_audit(ENTRY, "planted", False, 3, cache)
    assert len(audit_configs) == 1
    outcome = audits.read_outcome(ENTRY, "planted", False, 3, cache)
    assert outcome.evaluation == JUDGED
    assert outcome.entry == ENTRY
    assert "'stamp 1'] confirmed" in capsys.readouterr().out


def test_the_twin_is_audited_on_the_same_corpus_by_the_same_defaults(cache, audit_configs):
    audits.run_audit(ENTRY, "planted", False, 3, cache)
    audits.run_audit(ENTRY, "planted", True, 3, cache)
    own, twin = audit_configs
    assert own.model.architecture == f"local-dir:{get_folder(ENTRY, cache).resolve()}"
    assert twin.model.architecture == f"local-dir:{get_folder(create_clean_entry('phantoms', 1), cache).resolve()}"
    for config in audit_configs:
        plain = AuditConfig(corpus=config.corpus, model=config.model, lake=config.lake)
        assert config == plain  # only paths are set


def test_every_entry_is_audited_on_every_corpus_and_by_its_twin():
    assert set(audits.AUDITS) == {("planted", False), ("bare", False), ("crossed", False), ("planted", True)}
