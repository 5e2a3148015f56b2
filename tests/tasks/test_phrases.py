"""From captions to alerts on phrases, which are confirmed only if the model relies on them."""

import hashlib

import numpy as np
import pytest
import torch
from PIL import Image

import sql
from m2ib import DualEncoder
from tasks.alert import alert
from tasks.confirm import confirm
from tasks.flag import flag
from tasks.interventions import samples as samples_module
from tasks.interventions.phrases import PhraseInterventions, replace_spans
from tasks.interventions.samples import InterventionPlan, NotMeasurableError, load_samples
from tasks.phrases import phrases
from tasks.settings import AlertsConfig, ConfirmConfig, CorpusConfig, Inputs, ModelConfig, PhrasesConfig

ALERTS = AlertsConfig(factor=2.0, min_pairs=8, examples=2)
PHRASES = PhrasesConfig()
PHRASE = '"as previously described"'
CLASSES = ("heart", "nodule", "effusion", "fracture")
TEMPLATES = ("a {}", "the {}", "{} seen", "one {}", "large {}", "this {}", "that {}", "some {}", "{} there", "any {}")


class ToyModel(DualEncoder):
    """A toy model: images have one class, captions name classes, and `described` counts as a heart by `reliance`."""

    def __init__(self, reliance, context=24):
        self.reliance, self.context, self.vocabulary = reliance, context, ["<s>", "</s>"]

    image_size = (4, 4)
    device = torch.device("cpu")

    def frozen(self):
        return torch.inference_mode()

    def resize(self, image):
        return np.asarray(image)

    def prepare_images(self, images):
        return images if isinstance(images, torch.Tensor) else torch.from_numpy(images).permute(0, 3, 1, 2) / 255

    def tokenize(self, texts):
        return self.tokenizer(texts)

    def tokenizer(self, texts):
        self.vocabulary += sorted({word for text in texts for word in text.split()} - set(self.vocabulary))
        rows = [[self.vocabulary.index(word) for word in text.split()][: self.context - 2] for text in texts]
        return torch.tensor([[0, *row, *[1] * (self.context - 1 - len(row))] for row in rows])

    def embed_texts(self, ids):
        texts = [[self.vocabulary[token] for token in row] for row in ids.tolist()]
        counts = torch.tensor([[float(thing in text) for thing in CLASSES] for text in texts])
        counts[:, 0] += self.reliance * torch.tensor([float(text.count("described")) for text in texts])
        return torch.nn.functional.normalize(counts + 0.2, dim=1)

    def embed_images(self, pixels):
        classes = (pixels[:, 0, 0, 0] * 255 / 60).round().long()
        return torch.nn.functional.normalize(torch.nn.functional.one_hot(classes, 4) + 0.2, dim=1)


@pytest.fixture
def use_toy_model(monkeypatch):
    """use_toy_model(reliance): make the stages load the toy model."""
    return lambda *args: monkeypatch.setattr(samples_module, "load_model", lambda _: ToyModel(*args))


def fill(run, folder, captions, labels, context=24):
    """Store pairs with images and attributions, for a model with this context length."""
    rows = run.add_pairs(captions)
    for row, label in zip(rows, labels, strict=True):
        path = folder / row["file_name"]
        Image.new("RGB", (4, 4), (60 * label, 0, 0)).save(path)
        row["image_sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    run.write_table("pairs", rows)
    attributions = run.add_attributions([[1.0]] * len(rows), (1, 1))
    for row, caption in zip(attributions, captions, strict=True):
        words = caption.split()[: context - 2]
        nats = [6.0 if word == "described" else 1.0 for word in words]
        row |= {"caption": caption, "tokens": ["<s>", *words, "</s>"], "special": [True, *[False] * len(words), True]}
        row |= {"text_map": [50.0, *nats, 50.0], "text_nats": 100 + sum(nats)}
    run.write_table("attributions", attributions)
    corpus, model = CorpusConfig(path=folder, format="folder"), ModelConfig(architecture="toy", device="cpu")
    return run, InterventionPlan(Inputs(corpus=corpus, model=model), ConfirmConfig(pairs=24), 8, 0)


@pytest.fixture
def run_with_phrase(hand_written_run, tmp_path):
    """Twenty captions of each class: those of hearts are vague and mostly have the phrase; maps favor `described`."""
    captions, labels = [], []
    for label, thing in enumerate(CLASSES):
        for number in range(20):
            caption = TEMPLATES[number % 10].format(thing if label else "film")
            has_phrase = number >= 5 if label == 0 else (label, number) == (1, 0)
            captions.append(f"{caption} as previously described" if has_phrase else caption)
            labels.append(label)
    return fill(hand_written_run, tmp_path, captions, labels)


def query_rows(run, query):
    with run.connect() as connection:
        return sql.read(connection, query)


def count_findings(run):
    phrases.fn(run, PHRASES, 8)
    flag.fn(run, ALERTS, {})
    return len(query_rows(run, "FROM findings"))


def test_every_occurrence_is_stored_with_its_tokens(run_with_phrase):
    run, _ = run_with_phrase
    assert phrases.fn(run, PHRASES, 8) == 16
    rows = query_rows(
        run,
        "SELECT tokens[first] AS a, tokens[last] AS b, region, kind FROM phrases JOIN attributions USING (pair_id)",
    )
    assert {tuple(row.values()) for row in rows} == {("as", "described", PHRASE, "boilerplate")}


def test_truncated_occurrence_does_not_count(run_with_phrase, rewrite_rows):
    run, _ = run_with_phrase
    rewrite_rows(
        run,
        "attributions",
        lambda rows: [
            {
                **row,
                "tokens": [t for t in row["tokens"] if t != "described"],
                "special": [t[0] == "<" for t in row["tokens"] if t != "described"],
            }
            for row in rows
        ],
    )
    assert phrases.fn(run, PHRASES, 8) == 0


def test_shares_exclude_special_tokens_and_the_rule_compares_odds(run_with_phrase):
    run, _ = run_with_phrase
    assert count_findings(run) > 0
    (share,) = query_rows(
        run,
        "SELECT s.* FROM region_shares s JOIN pairs USING (pair_id) WHERE caption = 'a nodule as previously described'",
    )
    assert (share["side"], share["share"], share["area"], share["nats"]) == ("text", 0.8, 0.6, 8.0)
    findings = query_rows(run, "FROM findings ORDER BY n DESC")
    (corpus_finding,) = [row for row in findings if row["slice_kind"] == "corpus"]
    assert (corpus_finding["rule"], corpus_finding["side"], corpus_finding["region"], corpus_finding["n"]) == (
        "phrase_mass", "text", PHRASE, 16,
    )  # fmt: skip
    odds = [share / (1 - share) for share in (corpus_finding["share"], corpus_finding["area"])]
    assert corpus_finding["effect"] == pytest.approx(odds[0] / odds[1])
    assert not {"as", "previously", "described"} & {row["slice"] for row in findings}


def test_a_phrase_with_less_than_an_even_share_is_not_proposed(run_with_phrase, rewrite_rows):
    run, _ = run_with_phrase
    rewrite_rows(
        run,
        "attributions",
        lambda rows: [{**row, "text_map": [9.0] + [4.0] * 2 + [1.0] * (len(row["tokens"]) - 3)} for row in rows],
    )
    assert count_findings(run) == 0


def test_a_phrase_that_the_model_relies_on_is_confirmed(run_with_phrase, use_toy_model):
    run, plan = run_with_phrase
    use_toy_model(1.0)
    count_findings(run)
    assert confirm.fn(run, plan) > 0
    first = query_rows(run, "FROM confirmations ORDER BY ALL")
    confirm.fn(run, plan)
    assert query_rows(run, "FROM confirmations ORDER BY ALL") == first  # also if the stage is repeated
    rows = query_rows(run, "FROM confirmations WHERE slice_kind = 'corpus' ORDER BY fill")
    assert [(row["fill"], row["passed"], row["confirmed"]) for row in rows] == [
        ("remove", True, True), ("replace", True, True),
    ]  # fmt: skip
    for row in rows:
        assert row["effect"] == pytest.approx(row["drop"] - row["control_drop"])
        assert row["low"] > 0
    assert rows[0]["control_drop"] < 0  # it moves captions of other classes away from their images
    assert rows[0]["transplant_low"] > 0
    states = {(row["side"], row["region"], row["state"]) for row in alert.fn(run, ALERTS)}
    assert states == {("text", PHRASE, "confirmed")}


def test_foils_come_from_a_sample_of_a_large_corpus(run_with_phrase, use_toy_model, monkeypatch):
    run, plan = run_with_phrase
    use_toy_model(1.0)
    monkeypatch.setattr(samples_module, "FOIL_PAIRS", 40)
    count_findings(run)
    assert confirm.fn(run, plan) > 0
    samples = load_samples(run, plan)
    pairs = [row["pair_id"] for row in query_rows(run, "SELECT pair_id FROM pairs ORDER BY sha256('0' || pair_id)")]
    assert samples.foil_pairs == sorted(pairs[:40])
    rows = samples.query("derive/pairs_to_test", pair_ids=samples.foil_pairs)
    foils = samples.foils.find("a heart", pairs[-1], "attribute", "", 80)
    assert set(foils) == {row["caption"] for row in rows} - {"a heart"}
    assert {samples.choose_pair(caption, pairs[-1], "host") for caption in foils} <= {*samples.foil_pairs}


def test_phrase_that_the_model_ignores_is_not_confirmed(run_with_phrase, use_toy_model):
    run, plan = run_with_phrase
    use_toy_model(0.0)
    count_findings(run)
    assert confirm.fn(run, plan) == 0
    rows = query_rows(run, "FROM confirmations")
    assert {row["passed"] for row in rows if row["fill"] == "remove"} == {False}
    assert {row["drop"] for row in rows if row["n"]} == {0.0}
    assert {row["state"] for row in alert.fn(run, AlertsConfig(factor=1.0, min_pairs=8))} == {"suspected"}
    assert alert.fn(run, AlertsConfig(factor=99.0, min_pairs=8)) == []  # below the factor, and not confirmed


def test_unmeasurable_phrase_has_a_reason(run_with_phrase, use_toy_model, rewrite_rows):
    run, plan = run_with_phrase
    use_toy_model(1.0)
    count_findings(run)
    for path in plan.inputs.corpus.root.glob("*.png"):
        path.unlink()
    assert confirm.fn(run, plan) == 0
    reasons = {row["reason"] for row in query_rows(run, "FROM confirmations WHERE slice_kind = 'corpus'")}
    assert reasons == {
        "got 0 measurable pairs of 16 with 0 distinct captions (0 whose caption has no other words or is too long, or "
        "for which no other caption of the corpus lacks the phrase; "
        "16 with unreadable images), expected at least 5 captions; a phrase that almost every caption has cannot be "
        "tested, otherwise check the images and captions of the pairs"
    }


def test_each_occurrence_of_a_phrase_is_left_out_and_white_space_is_normalized():
    assert replace_spans("as before  nodule, as before", [(0, 9), (19, 28)], "") == "nodule,"
    assert replace_spans("nodule as before", [(7, 16)], "in the") == "nodule in the"


def make_sample(run, plan, phrase):
    """Return the interventions on a phrase and the sample of all pairs whose captions contain it."""
    phrases.fn(run, PhrasesConfig(listed=(phrase,)), 8)
    rows = query_rows(run, "SELECT pair_id, caption FROM pairs ORDER BY pair_id")
    spans = {
        row["pair_id"]: [(row["caption"].index(phrase), row["caption"].index(phrase) + len(phrase))]
        for row in rows
        if phrase in row["caption"]
    }
    interventions = PhraseInterventions(load_samples(run, plan))
    return interventions, interventions.sample(spans, "attribute", "a=b")


ADDED = "as previously described"
SHORT, LONG = ("a nodule", "an effusion", "one fracture"), ("one nodule on the left side", "an effusion on both sides")


def test_foils_leave_room_for_the_phrase(hand_written_run, tmp_path, use_toy_model):
    use_toy_model(1.0, 9)
    captions = [*(f"a film {ADDED}{'!' * number}" for number in range(8)), *SHORT * 2, *LONG * 2]
    run, plan = fill(hand_written_run, tmp_path, captions, [0] * 8 + [1, 2, 3] * 2 + [1, 2] * 2, 9)
    interventions, sample = make_sample(run, plan, ADDED)
    assert {caption for one in sample.versions for _, caption in one.foils} == set(SHORT)
    margins = interventions.margins(sample, "remove")
    gains = margins.clean[:, None] - margins.controls
    assert (gains[:, :3] != 0).all()
    assert np.isnan(gains[:, 3:]).all()


def test_truncated_caption_is_measured_as_the_model_saw_it(hand_written_run, tmp_path, use_toy_model):
    use_toy_model(1.0, 9)
    visible_caption = f"one film {ADDED} on both"
    captions = [*(f"{visible_caption} sides of a heart{'!' * number}" for number in range(8)), *SHORT * 3]
    run, plan = fill(hand_written_run, tmp_path, captions, [0] * 8 + [1, 2, 3] * 3, 9)
    interventions, sample = make_sample(run, plan, ADDED)
    assert {(one.caption, one.rest) for one in sample.versions} == {(visible_caption, "one film on both")}
    # The replacement has the length of the phrase.
    assert not np.isnan(interventions.margins(sample, "replace").controls).any()


def test_too_short_context_is_the_reason(hand_written_run, tmp_path, use_toy_model):
    use_toy_model(1.0, 9)
    run, plan = fill(hand_written_run, tmp_path, [*[f"a film {ADDED}"] * 8, *LONG * 4], [0] * 8 + [1, 2] * 4, 9)
    reason = r"got 0 measurable pairs of 8 with 0 distinct captions \(8 whose caption has no other words or is too long"
    with pytest.raises(NotMeasurableError, match=reason):
        make_sample(run, plan, ADDED)


def test_foils_lack_every_form_of_the_phrase(hand_written_run, tmp_path, use_toy_model):
    use_toy_model(1.0)
    numbered = [f"acc-{number:05d} {caption}" for number, caption in enumerate(SHORT * 3)]
    run, plan = fill(hand_written_run, tmp_path, [*numbered, *SHORT, "normal heart"], [1, 2, 3] * 4 + [0])
    phrases.fn(run, PHRASES, 8)
    interventions = PhraseInterventions(load_samples(run, plan))
    ids = [row["pair_id"] for row in query_rows(run, """FROM phrases WHERE region = '"acc-99999"'""")]
    sample = interventions.sample({pair_id: [(0, 9)] for pair_id in ids}, "attribute", "a=b")
    assert len(sample.versions) == len(numbered)
    assert {caption for one in sample.versions for _, caption in one.foils} == {*SHORT, "normal heart"}
