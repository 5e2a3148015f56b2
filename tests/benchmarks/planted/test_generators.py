"""Pairs of both generators, before and after planting."""

import numpy as np
import pytest

from benchmarks.planted.artifacts import KINDS
from benchmarks.planted.generators import FAINT, Planting, draw_pair
from benchmarks.planted.learning import compute_positives, make_architecture
from benchmarks.planted.plan import (
    ELSEWHERE,
    GENERATORS,
    RANDOM_ABSENCE,
    RANDOM_RATE,
    SETS,
    VAGUE_SHARES,
    create_clean_entry,
    create_model_entry,
)
from demo.contrastive import Vocabulary

NOTHING = Planting({})


@pytest.fixture(scope="module", params=GENERATORS)
def generator(request):
    return GENERATORS[request.param]


@pytest.fixture(scope="module", params=SETS)
def sample(generator, request):
    entry = create_model_entry(generator.name, request.param, 1)
    rng = np.random.default_rng(5)
    return entry, [draw_pair(generator, entry.planting, rng) for _ in range(900)]


def draw_pairs_of(generator, planting, count=40, seed=3):
    rng = np.random.default_rng(seed)
    return [draw_pair(generator, planting, rng) for _ in range(count)]


def test_the_same_seed_gives_the_same_bytes(generator):
    planting = create_clean_entry(generator.name, 0).planting
    first, second, third = (draw_pairs_of(generator, planting, 12, seed) for seed in (1, 1, 2))
    for a, b, c in zip(first, second, third, strict=True):
        assert a.image.tobytes() == b.image.tobytes() != c.image.tobytes()
        assert a.caption == b.caption
        assert a.wording == b.wording


def test_boxes_are_inside_the_image_and_belong_to_visible_objects(generator):
    for pair in draw_pairs_of(generator, NOTHING, 150):
        assert set(pair.picture.boxes) <= pair.picture.classes
        for box in pair.picture.boxes.values():
            assert 0 <= box.x0 < box.x1 <= 80
            assert 0 <= box.y0 < box.y1 <= 80


def test_visible_objects_are_inside_their_box(generator):
    """The same image with a fainter finding differs more inside the box than outside."""
    inside, outside = [], []
    for label in range(len(generator.classes)):
        if generator.get_target(label) in {None, "cardiomegaly"}:  # a smaller heart has a different box
            continue
        strong, weak = (generator.draw(np.random.default_rng(label), label, strength) for strength in (1.0, 0.0))
        box, changed = strong.boxes[label], np.abs(strong.pixels - weak.pixels)
        changed = changed if changed.ndim == 2 else changed.mean(axis=-1)
        mask = np.zeros(changed.shape, bool)
        mask[box.y0 : box.y1, box.x0 : box.x1] = True
        inside.append(changed[mask].mean())
        outside.append(changed[~mask].mean())
    assert min(np.array(inside) / np.maximum(outside, 1e-6)) > 8


def test_a_faint_finding_cannot_be_seen(generator):
    label = next(label for label in range(len(generator.classes)) if generator.get_target(label) is not None)
    for seed in range(10):
        faint, absent = (generator.draw(np.random.default_rng(seed), label, s) for s in (FAINT, 0.0))
        assert np.abs(faint.pixels - absent.pixels).mean(axis=None) < 0.002
        assert np.abs(faint.pixels - absent.pixels).max() < 0.04


def test_captions_name_their_classes_and_vague_ones_do_not(generator):
    prompts = {text for label in range(len(generator.classes)) for text in generator.list_prompts(label)}
    for vague in (0.0, 1.0):
        shares = dict.fromkeys((*generator.targets, None), vague)
        for pair in draw_pairs_of(generator, Planting({}, vague=shares), 150):
            assert pair.wording.vague == bool(vague)
            assert pair.wording.classes <= pair.picture.classes
            assert pair.picture.label in pair.wording.classes
            class_name = generator.classes[pair.picture.label]
            if vague:
                assert not any(
                    name.split()[-1] in pair.caption.split() for name in generator.classes if name != "normal"
                )
                assert pair.caption not in prompts
            elif len(pair.wording.classes) == 1:
                assert pair.caption in generator.list_prompts(pair.picture.label)
            else:
                assert class_name in pair.caption


def test_all_words_are_in_the_vocabulary_and_fit_the_context(generator):
    known = Vocabulary(
        [kind.write(text) for kind in KINDS.values() for text in generator.list_texts()],
        make_architecture("transformer"),
    )
    rates = {name: dict.fromkeys((*generator.targets, None), 1.0) for name in KINDS}
    vague = dict.fromkeys((*generator.targets, None), 0.2)
    captions = [pair.caption for pair in draw_pairs_of(generator, Planting(rates, "TAG", vague=vague), 80)]
    ids = known.tokenizer(captions)
    assert set(ids.unique().tolist()) <= set(known.used.tolist())
    assert (ids[:, -1] == 0).all()  # the longest caption does not fill the context


def test_planted_rates_match_the_plan(sample):
    entry, pairs = sample
    for tie in entry.ties:
        tied = [pair.carries(tie.kind) for pair in pairs if pair.target == tie.target]
        rest = [pair.carries(tie.kind) for pair in pairs if pair.target != tie.target]
        # About three standard errors at these counts.
        by_absence = KINDS[tie.kind].by_absence
        assert np.mean(tied) == pytest.approx(1 - tie.strength if by_absence else tie.strength, abs=0.11)
        assert np.mean(rest) == pytest.approx(tie.strength if by_absence else ELSEWHERE, abs=0.05)


def test_faint_and_vague_shares_match_the_plan(sample):
    entry, pairs = sample
    for tie in entry.ties:
        of_target = [pair for pair in pairs if pair.target == tie.target]
        on_text = KINDS[tie.kind].modality == "text"
        assert np.mean([p.picture.faint for p in of_target]) == pytest.approx(0 if on_text else 0.4, abs=0.12)
        assert np.mean([p.wording.vague for p in of_target]) == pytest.approx(VAGUE_SHARES[not on_text], abs=0.12)


@pytest.mark.slow
def test_a_clean_corpus_plants_everything_at_random(generator):
    entry = create_clean_entry(generator.name, 0)
    pairs = draw_pairs_of(generator, entry.planting, 700)
    for kind in KINDS:
        for target in generator.targets:
            carries = [pair.carries(kind) for pair in pairs if pair.target == target]
            expected = RANDOM_ABSENCE if KINDS[kind].by_absence else RANDOM_RATE
            assert np.mean(carries) == pytest.approx(expected, abs=0.15)


def test_planted_pixels_equal_the_mask(sample):
    _, pairs = sample
    for pair in pairs[:150]:
        for planted in pair.artifacts:
            without = pair.remove_artifacts(planted.kind)
            if planted.mask is None:
                assert pair.image.tobytes() == without.image.tobytes()
                assert len(pair.caption.split()) == len(without.caption.split()) + len(planted.words)
                assert planted.box is None
            else:
                changed = pair.image != without.image
                changed = changed if changed.ndim == 2 else changed.any(axis=-1)
                assert not (changed & ~planted.mask).any()
                assert changed.any()
                box = planted.box
                assert planted.mask[box.y0 : box.y1, box.x0 : box.x1].sum() == planted.mask.sum()
                assert pair.caption == without.caption


def test_artifact_can_be_removed_and_added_again(sample):
    _, pairs = sample
    pair = next(pair for pair in pairs if len(pair.artifacts) == 1 and pair.artifacts[0].mask is not None)
    (planted,) = pair.artifacts
    bare = pair.remove_artifacts(planted.kind)
    assert bare.artifacts == ()
    assert bare.image.tobytes() == np.round(pair.picture.pixels * 255).astype(np.uint8).tobytes()
    assert bare.add_artifact(planted.kind, planted.seed).image.tobytes() == pair.image.tobytes()


def test_an_invisible_object_is_background(generator):
    label = next(label for label in range(len(generator.classes)) if generator.get_target(label) is not None)
    visible, faint = (generator.draw(np.random.default_rng(1), label, strength) for strength in (1.0, 0.0))
    box = visible.boxes[label]
    assert visible.subject[box.y0 : box.y1, box.x0 : box.x1].mean() > 0.3
    if generator.name == "scenes":
        assert not faint.subject[box.y0 : box.y1, box.x0 : box.x1].any()
        assert (visible.subject ^ faint.subject).sum() == visible.subject[
            box.y0 - 1 : box.y1 + 1, box.x0 - 1 : box.x1 + 1
        ].sum()


def test_positives_are_true_captions(generator):
    pairs = draw_pairs_of(generator, NOTHING, 30)
    same = compute_positives(pairs)
    assert (same.diagonal() == 1).all()
    if generator.name == "phantoms":
        labels = np.array([pair.picture.label for pair in pairs])
        assert np.array_equal(same.numpy() == 1, labels[:, None] == labels[None, :])
    else:
        assert not (same == same.T).all()  # a caption of one object is also true for scenes with several objects


def test_objects_of_scenes_are_anywhere_and_do_not_overlap():
    generator = GENERATORS["scenes"]
    centres = []
    for pair in draw_pairs_of(generator, NOTHING, 200):
        boxes = list(pair.picture.boxes.values())
        assert len(boxes) == len(pair.picture.classes) >= 2
        centres.append(((boxes[0].x0 + boxes[0].x1) / 2, (boxes[0].y0 + boxes[0].y1) / 2))
        for i, a in enumerate(boxes):
            for b in boxes[:i]:
                assert a.x1 <= b.x0 or b.x1 <= a.x0 or a.y1 <= b.y0 or b.y1 <= a.y0
    assert (np.ptp(centres, axis=0) > 50).all()
