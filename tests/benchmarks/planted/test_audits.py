"""An audit of the benchmark runs once for each version of the code, by the defaults, and is told no truth."""

from pathlib import Path
from types import SimpleNamespace

import pytest

import flows.audit
from benchmarks.planted import audits, evaluation
from benchmarks.planted.evaluation import Found, Judged
from benchmarks.planted.plan import artefact_entry, clean_entry
from benchmarks.planted.training import folder
from flows.config import AuditConfig

ENTRY = artefact_entry("phantoms", "a", 1)
JUDGED = Judged({"logo": Found(True, True, True, 0.5, 3, 0.4)}, ["stamp 1"], [], [], 7)


@pytest.fixture
def cache(tmp_path):
    for entry in (ENTRY, clean_entry("phantoms", 1)):
        folder(entry, tmp_path).mkdir(parents=True)
    return tmp_path


@pytest.fixture
def asked(monkeypatch):
    """The configurations that the audit was called with."""
    configs = []

    def audit(config):
        configs.append(config)
        assert len(list(Path(config.corpus.path).glob("*.png"))) == 3
        return SimpleNamespace(run_id="x")

    monkeypatch.setattr(flows.audit, "audit", audit)
    monkeypatch.setattr(evaluation, "judge", lambda *_: JUDGED)
    return configs


def test_an_outcome_is_kept_and_not_asked_for_twice(cache, asked, capsys):
    for _ in range(2):
        audits.run(ENTRY, "planted", False, 3, cache)
    assert len(asked) == 1
    found = audits.read(ENTRY, "planted", False, 3, cache)
    assert found.judged == JUDGED
    assert found.entry == ENTRY
    assert "'stamp 1'] confirmed" in capsys.readouterr().out


def test_the_twin_is_audited_on_the_same_corpus_by_the_same_defaults(cache, asked):
    audits.run(ENTRY, "planted", False, 3, cache)
    audits.run(ENTRY, "planted", True, 3, cache)
    own, twin = asked
    assert own.model.architecture == f"local-dir:{folder(ENTRY, cache).resolve()}"
    assert twin.model.architecture == f"local-dir:{folder(clean_entry('phantoms', 1), cache).resolve()}"
    for config in asked:
        plain = AuditConfig(corpus=config.corpus, model=config.model, lake=config.lake)
        assert config == plain  # nothing is set but where things are


def test_every_entry_is_audited_on_every_corpus_and_by_its_twin():
    assert set(audits.AUDITS) == {("planted", False), ("bare", False), ("crossed", False), ("planted", True)}
