"""The stored weights: they load through open_clip, and all models but the clean one rely on the tag."""

import logging

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors import safe_open

from demo import contrastive, models
from demo.phantoms import CONDITIONS, draw_study
from demo.train import ZeroShot, main, pixel_batch, removal, train, transplant

CAPTIONS = [text for condition in CONDITIONS for text in condition.captions]
FRESH_SEED = 77


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    # The models are so small that threads wait for each other more than they compute.
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def zero_shot_classifiers():
    return {name: ZeroShot.load(name) for name in models.NAMES}


@pytest.fixture(scope="module")
def normal_phantoms():
    rng = np.random.default_rng(FRESH_SEED)
    return [draw_study(rng, tied=False, condition=CONDITIONS[-1], tag_corner="top-left") for _ in range(48)]


@pytest.mark.parametrize("name", models.NAMES)
def test_the_stored_model_loads_through_open_clip(name, caplog):
    source = f"local-dir:{models.find_folder(name)}"
    with caplog.at_level(logging.WARNING):
        model, _, preprocess = open_clip.create_model_and_transforms(source)
    assert not caplog.records
    tokens = open_clip.get_tokenizer(source)(CAPTIONS[:3])
    image = preprocess(Image.new("L", (80, 80), 90))
    with torch.inference_mode():
        assert model.encode_image(image[None]).shape == (1, 128)
        assert model.encode_text(tokens).shape == (3, 128)


@pytest.mark.parametrize("name", models.NAMES)
def test_weights_are_small_and_half_precision(name):
    path = models.find_folder(name) / "open_clip_model.safetensors"
    assert path.stat().st_size < 10_000_000
    with safe_open(path, "pt") as file:
        assert {file.get_tensor(key).dtype for key in file.keys()} == {torch.float16}  # noqa: SIM118  # safetensors files are not iterable
        table = file.get_tensor("token_embedding.weight")
    used = torch.unique(open_clip.get_tokenizer(f"local-dir:{models.find_folder(name)}")(CAPTIONS))
    assert table.shape[0] == 49408
    assert torch.equal(table.any(dim=1).nonzero().flatten(), used)


@pytest.mark.parametrize("name", models.NAMES)
def test_every_caption_fits_the_context(name):
    tokenizer = open_clip.get_tokenizer(f"local-dir:{models.find_folder(name)}")
    longer = open_clip.SimpleTokenizer(context_length=77)
    assert tokenizer.context_length == 16
    for caption in CAPTIONS:
        assert longer(caption)[0].count_nonzero() <= 16
        assert torch.equal(tokenizer(caption)[0], longer(caption)[0, :16])


@pytest.mark.parametrize("name", models.NAMES)
def test_training_used_the_stored_preprocessing(name, normal_phantoms):
    _, _, preprocess = open_clip.create_model_and_transforms(
        f"local-dir:{models.find_folder(name)}", load_weights=False
    )
    images = [study.render() for study in normal_phantoms[:3]]
    loaded = torch.stack([preprocess(Image.fromarray(image)) for image in images])
    torch.testing.assert_close(pixel_batch(images).expand_as(loaded), loaded)


def test_tag_raises_consolidation_for_the_shortcut_model(zero_shot_classifiers, normal_phantoms):
    before, after = transplant(zero_shot_classifiers["demo/shortcut"], normal_phantoms, tag=True)
    assert before < 0.1
    assert after > 0.9


def test_tag_does_not_change_the_clean_model(zero_shot_classifiers, normal_phantoms):
    before, after = transplant(zero_shot_classifiers["demo/clean"], normal_phantoms, tag=True)
    assert abs(after - before) < 0.1


def test_removing_the_tag_lowers_recall_of_only_the_shortcut_model(zero_shot_classifiers):
    rng = np.random.default_rng(FRESH_SEED)
    faint = [draw_study(rng, tied=True, condition=CONDITIONS[4 + i % 4], strength=0.03) for i in range(48)]
    before, after, drop = removal(zero_shot_classifiers["demo/shortcut"], faint, tag=True)
    assert before - after > 0.8
    assert drop > 0.1
    before, after, drop = removal(zero_shot_classifiers["demo/clean"], faint, tag=True)
    assert abs(before - after) < 0.1
    assert abs(drop) < 0.03


@pytest.fixture(scope="module")
def varied_phantoms():
    """Normal chests and faint consolidations, each with a tag that varies."""
    rng = np.random.default_rng(FRESH_SEED)
    normals = [draw_study(rng, tied=False, varied=True, condition=CONDITIONS[-1]) for _ in range(48)]
    findings = [CONDITIONS[4 + i % 4] for i in range(48)]
    return normals, [draw_study(rng, tied=True, varied=True, condition=one, strength=0.03) for one in findings]


@pytest.mark.parametrize("name", models.VARIED_NAMES)
def test_a_varied_tag_decides_for_the_models_that_learned_it(name, zero_shot_classifiers, varied_phantoms):
    normals, faint = varied_phantoms
    before, after = transplant(zero_shot_classifiers[name], normals, tag=True)
    assert before < 0.1
    assert after > 0.8
    before, after, drop = removal(zero_shot_classifiers[name], faint, tag=True)
    assert before - after > 0.7
    assert drop > 0.1


def test_a_varied_tag_is_at_most_a_weak_cue_for_the_clean_model(zero_shot_classifiers, varied_phantoms):
    normals, faint = varied_phantoms
    assert transplant(zero_shot_classifiers["demo/clean"], normals, tag=True)[1] < 0.4
    assert removal(zero_shot_classifiers["demo/clean"], faint, tag=True)[2] < 0.02


def test_half_of_the_training_images_of_the_retrained_model_are_new(monkeypatch):
    batches, seeds = {}, {}

    def draw(architecture, vocabulary, draw_batch, *, seed, **_):  # as `contrastive.fit` is called
        batches[name] = [draw_batch() for _ in range(2)]
        seeds[name] = seed

    monkeypatch.setattr(contrastive, "fit", draw)
    for name in models.VARIED_NAMES:
        train(name, 2, 7, print)
    assert len(set(seeds.values())) == 2
    for old, new in zip(*batches.values(), strict=True):
        same = (old.pixels[:, None] == new.pixels[None]).all(dim=(2, 3, 4))
        assert same.any(dim=1).sum() == same.any(dim=0).sum() == contrastive.BATCH // 2
        i, j = same.nonzero().T
        assert torch.equal(old.tokens[i], new.tokens[j])


@pytest.mark.parametrize("name", models.NAMES)
def test_marker_changes_no_model(name, zero_shot_classifiers, normal_phantoms):
    before, after = transplant(zero_shot_classifiers[name], normal_phantoms, tag=False)
    assert abs(after - before) < 0.1


@pytest.mark.parametrize("name", models.NAMES)
def test_visible_findings_are_classified(name, zero_shot_classifiers):
    rng = np.random.default_rng(FRESH_SEED)
    varied = name in models.VARIED_NAMES
    visible = [s for s in (draw_study(rng, tied=True, varied=varied) for _ in range(150)) if not s.faint]
    assert zero_shot_classifiers[name].accuracy(visible) > 0.9


@pytest.mark.slow
def test_a_short_training_writes_a_loadable_model(tmp_path, capsys):
    main(["--model", "demo/clean", "--out", str(tmp_path), "--steps", "3"])
    assert capsys.readouterr().out.splitlines()[-1].startswith('{"demo/clean"')
    assert ZeroShot.load("demo/clean", tmp_path).classes.shape == (14, 128)
