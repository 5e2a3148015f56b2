"""Interventions on phrases: measure how much the margin of a caption falls when a phrase is left out.

The margin is that of a caption: cosine with its own image, minus the cosine with the best of some foil images, whose
captions have another meaning and lack the phrase. There are two controls: the same phrase added to captions that lack
it, and as many of the corpus's most common words in its place. A caption that the tokenizer truncates is
tested in its truncated form. Words are only added where the result fits into the model's context.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from m2ib.analysis import occlusion
from tasks.interventions.samples import NotMeasurableError, Samples
from tasks.interventions.statistics import LEAST_UNITS, Margins, Numbers, first_pairs, generator
from tasks.records import Claim
from tasks.text.boilerplate import phrase_words
from tasks.text.spans import Span, phrase_span, token_spans

PhraseFill = Literal["remove", "replace"]

FILLER_WORDS = 8
"""Number of most common words of the corpus from which fillers are sampled."""
_ONE_MORE_WORD = " a"  # changes the tokens in any vocabulary, if there is room


class ModelCaptions:
    """The captions that a model reads: truncated, with the phrases in them.

    Args:
        samples: The pairs of a run. Foils are chosen from the captions of some of them.
    """

    def __init__(self, samples: Samples) -> None:
        self._samples = samples
        self._pairs: dict[str, list[tuple[str, Span]]] = {}  # the phrases of each pair, with their places
        self._spans: dict[str, list[Span | None]] = {}
        rows = samples.query("derive/caption_phrases", pair_ids=samples.foil_pairs)
        self._foils = frozenset(row["caption"] for row in rows)
        self._foils_with: dict[str, set[str]] = defaultdict(set)
        for row in rows:
            for region in row["regions"] or ():
                self._foils_with[region].add(row["caption"])

    def load(self, pair_ids: Sequence[str]) -> None:
        """Read the phrases of pairs, so that one query finds many of them."""
        if missing := [pair_id for pair_id in pair_ids if pair_id not in self._pairs]:
            self._pairs |= {pair_id: [] for pair_id in missing}
            for row in self._samples.query("derive/phrase_occurrences", pair_ids=missing):
                self._spans[row["pair_id"]] = spans = token_spans(row["caption"], row["tokens"], row["special"])
                if row["region"] is not None:
                    span = phrase_span(row["first"], row["last"], spans)
                    self._pairs[row["pair_id"]].append((row["region"], span))

    def spans_of(self, pair_id: str, phrase: str) -> list[Span]:
        """Return the places of a phrase in the caption of a pair."""
        self.load([pair_id])
        return [span for region, span in self._pairs[pair_id] if region == phrase]

    def truncate(self, pair_id: str) -> str:
        """Return the part of a pair's caption that the model reads: up to the end of its last token."""
        self.load([pair_id])
        end = max((span[1] for span in self._spans[pair_id] if span is not None), default=0)
        return self._samples.caption_of(pair_id)[:end]

    def find_without(self, spans_by_pair: Mapping[str, Sequence[Span]]) -> frozenset[str]:
        """Return the possible foils that lack a phrase, which is given by its spans in the captions of some pairs.

        If several stored phrases have all of these spans, the foils lack all of these phrases.
        """
        self.load(list(spans_by_pair))
        phrases = [
            {region for region, own in self._pairs[pair_id] if own == span}
            for pair_id, spans in spans_by_pair.items()
            for span in spans
        ]
        matching = set.intersection(*phrases) if phrases else set(self._foils_with)
        return self._foils.difference(*(self._foils_with[phrase] for phrase in matching if phrase in self._foils_with))


@dataclass(frozen=True)
class CaptionVersions:
    """A pair's caption, its versions without the phrase or with fillers, and its foils."""

    pair_id: str
    foils: list[tuple[str, str]]  # pair id and caption of each foil
    caption: str  # as the model reads it
    phrase: str  # as it is written in the caption
    rest: str  # the caption without the phrase
    fillers: list[str]  # sequences of common words, each with as many words as the phrase
    replaced: list[str]  # versions with a filler in place of the phrase, as far as they fit into the context
    at_start: bool  # whether the caption starts with the phrase, so that it is added at the start of other captions

    def add_words(self, other: str, words: str) -> str:
        """Add words to another caption: at its start if this caption starts with the phrase, otherwise at its end."""
        return f"{words} {other}" if self.at_start else f"{other} {words}"


@dataclass(frozen=True)
class PhraseSample:
    """Pairs on which a phrase is tested, with embeddings of their images and of the foils' images."""

    versions: list[CaptionVersions]
    units: NDArray[np.intp]  # number of the caption of each pair, in the order in which captions first occur
    own: Numbers  # (pairs, embed)
    foils: Numbers  # (pairs, foils, embed)

    def first_units(self, count: int) -> "PhraseSample":
        """Return the part of the sample that belongs to its first `count` units."""
        return self.select(np.flatnonzero(self.units < count).tolist())

    def first_pairs(self, count: int) -> "PhraseSample":
        """Return the part of the sample with the first pair of each of its first `count` units."""
        return self.select(first_pairs(self.units, count))

    def select(self, chosen: Sequence[int]) -> "PhraseSample":
        """Return the part of the sample with the pairs of these numbers."""
        return PhraseSample(
            [self.versions[i] for i in chosen], self.units[chosen], self.own[chosen], self.foils[chosen]
        )


def replace_spans(caption: str, spans: Sequence[Span], filler: str) -> str:
    """Replace each span of a caption by `filler`, and normalize white space."""
    parts, end_before = [], 0
    for start, end in spans:
        parts += [caption[end_before:start], filler]
        end_before = end
    return " ".join(" ".join([*parts, caption[end_before:]]).split())


class PhraseInterventions:
    """Measures margins with phrases removed from, or replaced in, the captions of a run."""

    fills: ClassVar[tuple[PhraseFill, ...]] = ("remove", "replace")

    def __init__(self, samples: Samples) -> None:
        self._samples, self._settings = samples, samples.plan.confirm
        self._fitting: dict[str, bool] = {}

    @cached_property
    def _model_captions(self) -> ModelCaptions:
        return ModelCaptions(self._samples)

    def _fits(self, text: str) -> bool:
        """Return whether a text fits into the model's context and leaves room for another word.

        It does if the tokens change when a word is appended to the text.
        """
        if text not in self._fitting:
            self._fitting[text] = self._count_different_tokens(text, text + _ONE_MORE_WORD) > 0
        return self._fitting[text]

    def _count_different_tokens(self, text: str, other: str) -> int:
        tokens, others = self._samples.network.tokenizer([text, other]).numpy()
        return int((tokens != others).sum())

    def sample_claim(self, claim: Claim, pair_ids: Sequence[str]) -> PhraseSample:
        """Prepare pairs for the test of a claim, which names a stored phrase and a slice; see `sample`."""
        phrase, slice_kind, slice_name = claim
        self._model_captions.load(pair_ids)
        spans_by_pair = {pair_id: self._model_captions.spans_of(pair_id, phrase) for pair_id in pair_ids}
        return self.sample(spans_by_pair, slice_kind, slice_name)

    def sample(self, spans_by_pair: Mapping[str, Sequence[Span]], slice_kind: str, slice_name: str) -> PhraseSample:
        """Prepare pairs of a slice for tests of a phrase, given its spans in the caption of each pair.

        The foils depend on the slice; see `FoilFinder.find`. Pairs that cannot be measured are left out;
        NotMeasurableError is raised if too few are left.
        """
        samples, count = self._samples, self._settings.foils
        samples.load(spans_by_pair)
        without = self._model_captions.find_without(spans_by_pair)
        versions = [
            prepared
            for pair_id, spans in spans_by_pair.items()
            if (prepared := self._versions(pair_id, spans, slice_kind, slice_name, without)) is not None
        ]
        pair_ids = [pair_id for one in versions for pair_id in (one.pair_id, *(foil for foil, _ in one.foils))]
        images = dict(zip(pair_ids, samples.embed_pairs(pair_ids), strict=True))
        found = []
        for one in versions:
            foils = [(pair_id, caption) for pair_id, caption in one.foils if images[pair_id] is not None]
            if images[one.pair_id] is not None and foils:
                found.append(replace(one, foils=foils))
        units, n = samples.number_units([one.pair_id for one in found], "caption_unit"), len(spans_by_pair)
        if len({*units.tolist()}) < LEAST_UNITS:
            raise NotMeasurableError(
                f"got {len(found)} measurable pairs of {n} with {len({*units.tolist()})} distinct captions "
                f"({n - len(versions)} whose caption has no other words or is too long, or for which no other "
                f"caption of the corpus lacks the phrase; {len(versions) - len(found)} with unreadable images), "
                f"expected at least {LEAST_UNITS} captions; a phrase that almost every caption has cannot be tested, "
                "otherwise check the images and captions of the pairs"
            )
        return PhraseSample(
            found,
            units,
            own=np.stack([images[one.pair_id] for one in found]),
            # Where there are fewer foils they repeat: only the best one counts.
            foils=np.stack([np.stack(([images[foil] for foil, _ in one.foils] * count)[:count]) for one in found]),
        )

    def _versions(
        self, pair_id: str, spans: Sequence[Span], slice_kind: str, slice_name: str, without: frozenset[str]
    ) -> CaptionVersions | None:
        """Prepare the versions of a pair's caption; foils are chosen from `without`, the captions that lack the phrase.

        Return None if the pair cannot be measured.
        """
        samples, settings = self._samples, self._settings
        caption = samples.caption_of(pair_id)
        if not self._fits(caption):
            caption = self._model_captions.truncate(pair_id)
        rest, phrase = replace_spans(caption, spans, ""), caption[slice(*spans[0])]
        common = samples.foils.most_common_words(FILLER_WORDS, exclude=phrase)
        if not phrase_words(rest) or not common:
            return None
        length = len(phrase_words(phrase)) or 1
        random = generator("filler", samples.plan.seed, pair_id)
        chosen = [random.choice(common, length, replace=length > len(common)) for _ in range(settings.controls)]
        fillers = [" ".join(map(str, words)) for words in chosen]
        replaced = [
            version
            for filler in fillers
            if self._fits(version := replace_spans(caption, spans, filler))
            or self._count_different_tokens(filler, "") <= self._count_different_tokens(phrase, "")
        ]
        at_start = not caption[: spans[0][0]].strip()
        versions = CaptionVersions(pair_id, [], caption, phrase, rest, fillers, replaced, at_start)

        def accept(other: str) -> bool:
            longer = (versions.add_words(other, words) for words in (phrase, fillers[0]))
            return (
                other in without
                and samples.can_be_foil(other, pair_id)
                and self._fits(other)
                and all(map(self._fits, longer))
            )

        foils = samples.foils.find(rest, pair_id, slice_kind, slice_name, settings.foils, accept)
        if not foils or not replaced:
            return None
        return replace(versions, foils=[(samples.choose_pair(other, pair_id, "holder"), other) for other in foils])

    @property
    def num_images(self) -> int:
        """Number of images that were embedded for tests; see `Samples.count_images`."""
        return self._samples.num_images

    def _score(self, sample: PhraseSample, versions: Sequence[Sequence[str]]) -> Numbers:
        """Return the margins of versions of each pair's caption, as an array (pairs, versions)."""
        texts = np.stack([self._samples.embed_captions(captions) for captions in versions])
        return occlusion.foil_margin(texts, sample.own, sample.foils)

    def margins(self, sample: PhraseSample, fill: PhraseFill) -> Margins:
        """Measure the margins of a sample with and without the phrase, and those of its controls.

        With the fill `remove`, a control is the margin gained when the phrase is added to a caption that lacks it: a
        phrase that the model does not know disturbs all captions alike. With `replace`, a control is the margin gained
        when as many common words are put in the place of the phrase.
        """
        scores = self._score(sample, [(one.caption, one.rest) for one in sample.versions])
        clean, rest = scores[:, 0], scores[:, 1]
        if fill == "remove":
            gains = self._gains_of_foils(sample)
        else:
            count = self._settings.controls
            replaced = self._score(sample, [(one.replaced * count)[:count] for one in sample.versions])
            counts = np.array([len(one.replaced) for one in sample.versions])
            gains = np.where(np.arange(count) < counts[:, None], replaced - rest[:, None], np.nan)
        return Margins(clean, rest, clean[:, None] - gains, sample.units)

    def _gains_of_foils(self, sample: PhraseSample) -> Numbers:
        """Return how much each foil's margin rises when the phrase is added: (pairs, controls), NaN without a foil.

        The foil's own image is compared with the pair's image and with those of foils that differ in meaning.
        """
        gains = np.full((len(sample.versions), self._settings.controls), np.nan)
        for number, one in enumerate(sample.versions):
            captions = [caption for _, caption in one.foils]
            for place, caption in enumerate(captions[: self._settings.controls]):
                differ = [self._samples.foils.differ(caption, other) for other in captions]
                others = np.stack([sample.own[number], *sample.foils[number, : len(differ)][differ]])
                texts = self._samples.embed_captions([caption, one.add_words(caption, one.phrase)])
                before, after = occlusion.foil_margin(texts[None], sample.foils[number, place][None], others[None])[0]
                gains[number, place] = after - before
        return gains

    def transplant(self, sample: PhraseSample) -> Numbers:
        """Measure how much more the phrase than a filler, added to a foil, raises its margin for the pair's image."""
        versions = [
            [one.add_words(one.foils[0][1], words) for words in (one.phrase, one.fillers[0])] for one in sample.versions
        ]
        scores = self._score(sample, versions)
        rises: Numbers = scores[:, 0] - scores[:, 1]
        return rises
