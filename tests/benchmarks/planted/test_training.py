"""A model is trained once and loads through open_clip; interventions measure what it learned."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.planted import interventions, processes, training
from benchmarks.planted.interventions import OVER_TWIN, RISE, Effect, Verdict, format_table
from benchmarks.planted.plan import list_cells, list_entries
from demo import contrastive
from m2ib import load_encoder

MODEL, TWIN = list_entries(quick=True)
STEPS = 2


@pytest.fixture(scope="module", autouse=True)
def small_batches():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(contrastive, "BATCH", 8)
        yield


@pytest.fixture(scope="module")
def cache(tmp_path_factory, small_batches):
    cache = tmp_path_factory.mktemp("cache with a space")
    for entry in (MODEL, TWIN):
        training.train(entry, cache, STEPS)
    return cache


@pytest.mark.slow
def test_trained_folder_can_be_loaded(cache):
    encoder = load_encoder(f"local-dir:{training.get_folder(MODEL, cache, STEPS)}")
    assert encoder.image_size == (80, 80)
    texts = encoder.embed_texts(encoder.tokenize(["nodule on the left", "unit 7 nodule on the left"]))
    assert texts.shape == (2, 128)
    assert not torch.equal(texts[0], texts[1])


@pytest.mark.slow
def test_a_model_and_its_twin_have_their_own_folders_and_nothing_else_is_left(cache):
    model = {training.get_folder(entry, cache, STEPS) for entry in (MODEL, TWIN)}
    assert set(cache.iterdir()) == model
    facts = json.loads((training.get_folder(MODEL, cache, STEPS) / "entry.json").read_text())
    assert facts["name"] == MODEL.name
    assert facts["steps"] == STEPS


@pytest.mark.slow
def test_a_model_in_the_cache_is_not_trained_again(cache, monkeypatch):
    monkeypatch.setattr(training, "learn", None)
    folder = training.get_folder(MODEL, cache, STEPS)
    before = (folder / "open_clip_model.safetensors").stat().st_mtime_ns
    assert training.train(MODEL, cache, STEPS) == folder
    training.train_all([MODEL, TWIN], cache, STEPS)
    assert (folder / "open_clip_model.safetensors").stat().st_mtime_ns == before


def test_a_training_that_fails_leaves_no_folder_and_raises(tmp_path, monkeypatch):
    def fail(*_):
        raise FloatingPointError

    monkeypatch.setattr(training, "learn", fail)
    with pytest.raises(FloatingPointError):
        training.train(MODEL, tmp_path, STEPS)
    assert not training.is_cached(MODEL, tmp_path, STEPS)
    monkeypatch.setattr(processes.subprocess, "run", lambda *_, **__: processes.subprocess.CompletedProcess([], 1))
    with pytest.raises(RuntimeError, match=re.escape(MODEL.name)):
        training.train_all([MODEL], tmp_path, STEPS)


def test_training_processes_get_the_allocator_settings(tmp_path, monkeypatch):
    environment = {}

    def run(command, *, env, **_):
        environment[command[command.index("--only") + 1]] = env
        return processes.subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(processes.subprocess, "run", run)
    training.train_all([MODEL, TWIN], tmp_path, STEPS, jobs=2)
    assert set(environment) == {MODEL.name, TWIN.name}
    assert {env["MALLOC_TOP_PAD_"] for env in environment.values()} == {"268435456"}
    assert {env["OMP_NUM_THREADS"] for env in environment.values()} == {"1"}


@pytest.mark.slow
def test_the_same_seed_gives_the_same_weights(cache, tmp_path):
    repeated = training.train(MODEL, tmp_path, STEPS) / "open_clip_model.safetensors"
    assert repeated.read_bytes() == (training.get_folder(MODEL, cache, STEPS) / repeated.name).read_bytes()


def test_the_digest_depends_on_what_determines_the_weights():
    weaker = replace(MODEL, ties=(replace(MODEL.ties[0], strength=0.5), *MODEL.ties[1:]))
    digests = [
        training.compute_digest(e, s)
        for e, s in ((MODEL, 2), (MODEL, 3), (weaker, 2), (TWIN, 2), (list_entries()[0], 2))
    ]
    assert len(set(digests)) == 5
    assert training.compute_digest(replace(MODEL, name="other"), 2) == digests[0]


def test_comments_and_docstrings_do_not_count_as_code(tmp_path):
    path = tmp_path / "module.py"
    codes = []
    for text in (
        '"""Old."""\n\nX = 1\n"""Of x."""\n\n\ndef f(a):\n    """Do."""\n    return a + X  # sum\n',
        '"""New."""\nX = 1\ndef f(a): return a + X\n',
        "X = 2\ndef f(a): return a + X\n",
    ):
        path.write_text(text)
        codes.append(training.read_module_code(path))
    assert codes[0] == codes[1] != codes[2]


def test_the_command_line_rejects_an_unknown_model(capsys):
    with pytest.raises(SystemExit):
        training.main(["--only", "phantoms-z-0"])
    assert "phantoms-a-0" in capsys.readouterr().err


@pytest.mark.slow
def test_interventions_are_measured_once_and_stored_with_the_model(cache, monkeypatch, capsys):
    monkeypatch.setattr(interventions, "HOSTS", 6)
    monkeypatch.setattr(interventions, "PICTURES_PER_CLASS", 1)
    interventions.main(["--cache", str(cache), "--steps", str(STEPS), "--quick"])
    printed = capsys.readouterr().out.splitlines()
    result = json.loads(printed[-1])
    assert result["cells"] == 5
    assert len(result["not_learned"]) + result["learned"] == 5
    assert set(result["accuracy"]) == {MODEL.name, TWIN.name}
    monkeypatch.setattr(interventions, "load_encoder", None)
    interventions.main(["--cache", str(cache), "--steps", str(STEPS), "--quick"])
    assert capsys.readouterr().out.splitlines() == printed


def test_an_empty_cache_is_an_error_with_the_next_step(tmp_path):
    with pytest.raises(SystemExit, match=r"benchmarks\.planted\.training"):
        interventions.main(["--cache", str(tmp_path)])


@pytest.mark.parametrize(
    ("model", "twin", "learned"),
    [(1.0, 0.0, True), (RISE, 0.0, True), (RISE - 0.01, 0.0, False), (0.5, 0.5 - OVER_TWIN / 2, False)],
)
def test_learned_means_a_larger_increase_in_the_model_than_in_the_twin(model, twin, learned):
    verdict = Verdict(list_cells()[0], Effect(0, model, 0, 0), Effect(0, twin, 0, 0))
    assert verdict.learned is learned
    assert ("NO" in format_table([verdict])) is not learned
    assert not verdict.lowers
    assert Verdict(verdict.cell, Effect(0, 0, 0, model), Effect(0, 0, 0, twin)).lowers is learned


@pytest.mark.parametrize("cell", [list_cells()[0], list_cells()[-1]], ids=lambda cell: cell.entry.generator_name)
def test_hosts_have_other_targets_and_no_artifacts(cell, monkeypatch):
    monkeypatch.setattr(interventions, "HOSTS", 40)
    for plain in (True, False):
        hosts = list(interventions._draw_hosts(cell.entry.generator, cell.tie.target, "WORD", [], plain=plain))
        assert len(hosts) == 40
        assert cell.tie.target not in {pair.target for pair in hosts}
        assert not any(pair.artifacts for pair in hosts)
        assert {pair.wording.vague for pair in hosts} == {plain}
        assert all(pair.picture.faint == (plain and pair.target is not None) for pair in hosts)


def test_an_absence_is_measured_by_removing_the_mark(monkeypatch):
    """A model that classifies by the mark alone: without it, any picture shows the target."""
    cell = next(cell for cell in list_cells() if cell.tie.kind == "absent_tag")
    zero_shot = interventions.ZeroShot(None, cell.entry.generator)
    labels = {
        cell.entry.generator.get_target(label) == cell.tie.target: label
        for label in range(len(cell.entry.generator.classes))
    }
    monkeypatch.setattr(interventions, "HOSTS", 20)
    monkeypatch.setattr(
        zero_shot, "predict_labels", lambda pairs: [labels[not pair.carries("absent_tag")] for pair in pairs]
    )
    assert zero_shot.measure_effect(cell.tie, "WORD") == Effect(0, 1, 0, 1)
    copied = next(cell.entry.tie("copied_tag") for cell in list_cells() if "copied_tag" in cell.entry.kinds)
    assert zero_shot.measure_effect(copied, "WORD").rise == 0  # its hosts have the mark


def test_the_cache_is_outside_git():
    assert ".*_cache/" in (Path(training.ROOT) / ".gitignore").read_text()
    assert training.CACHE.is_relative_to(training.ROOT / ".benchmark_cache")
