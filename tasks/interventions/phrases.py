"""Interventions on phrases: measure how much the margin of a caption falls when a phrase is left out.

The margin is that of a caption: cosine with its own image, minus the cosine with the best of some foil images, whose
captions have another meaning and lack the phrase. There are two controls: the same phrase added to captions that lack
it, and as many of the corpus's most common words in its place. A caption that the tokenizer truncates is
tested in its truncated form. Words are only added where the result fits into the model's context.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from m2ib.analysis import occlusion
from tasks.interventions.samples import NotMeasurable, Samples
from tasks.interventions.statistics import Margins, Numbers, generator, smallest_sample
from tasks.settings import ConfirmConfig
from tasks.text.boilerplate import phrase_words
from tasks.text.spans import Span

PhraseFill = Literal["remove", "replace"]
PHRASE_FILLS: tuple[PhraseFill, ...] = ("remove", "replace")

FILLER_WORDS = 8
"""Most common words of the corpus from which the controls are sampled."""
_ONE_MORE_WORD = " a"  # changes the tokens in any vocabulary, if there is room


@dataclass(frozen=True)
class CaptionVersions:
    """A pair's caption, its versions and its foils.

    Attributes:
        pair_id: the pair.
        foils: pair id and caption of each foil.
        caption: the caption as the model reads it.
        phrase: the phrase as it is written in the caption.
        rest: the caption without the phrase.
        fillers: sequences of common words, each with as many words as the phrase.
        replaced: versions with a filler in place of the phrase, as far as they fit into the context.
        at_start: whether the caption starts with the phrase, so that it is added at the start of other captions.
    """

    pair_id: str
    foils: list[tuple[str, str]]
    caption: str
    phrase: str
    rest: str
    fillers: list[str]
    replaced: list[str]
    at_start: bool


@dataclass(frozen=True)
class PhraseSample:
    """Pairs on which a phrase is tested.

    Attributes:
        versions: captions of the pairs, with their versions.
        own: embeddings of the pairs' images, (pairs, embed).
        foils: embeddings of the foils' images, (pairs, foils, embed).
    """

    versions: list[CaptionVersions]
    own: Numbers
    foils: Numbers


def add_words(caption: str, words: str, at_start: bool) -> str:
    """Add words at the start or the end of a caption."""
    return f"{words} {caption}" if at_start else f"{caption} {words}"


def replace_spans(caption: str, spans: Sequence[Span], filler: str) -> str:
    """Replace each span of a caption by a text, and normalize white space."""
    parts, end_before = [], 0
    for start, end in spans:
        parts += [caption[end_before:start], filler]
        end_before = end
    return " ".join(" ".join([*parts, caption[end_before:]]).split())


class PhraseInterventions:
    """Remove and replace phrases in the captions of a run."""

    def __init__(self, samples: Samples, settings: ConfirmConfig) -> None:
        self._samples, self._settings = samples, settings
        self._fitting: dict[str, bool] = {}

    def _fits(self, text: str) -> bool:
        """Return whether a text fits into the model's context: adding a word changes its tokens.

        A text that fills the context to the last token does not count.
        """
        if text not in self._fitting:
            tokens, longer = self._samples.network.tokenize([text, text + _ONE_MORE_WORD])
            self._fitting[text] = bool((tokens != longer).any())
        return self._fitting[text]

    def _count_tokens(self, words: str) -> int:
        """Count the tokens of some words, up to a constant number of special tokens."""
        tokens, empty = self._samples.network.tokenize([words, ""])
        return int((tokens != empty).sum())

    def sample(
        self, spans_by_pair: Mapping[str, Sequence[Span]], slice_kind: str, slice_name: str
    ) -> PhraseSample | NotMeasurable:
        """Prepare pairs of a slice for tests of a phrase.

        Args:
            spans_by_pair: spans of the phrase in the caption of each pair, in the order of the sample.
            slice_kind: kind of the slice, which decides the foils; see `FoilFinder.find`.
            slice_name: name of the slice.
        """
        samples, count = self._samples, self._settings.foils
        without = samples.model_captions.find_without(spans_by_pair)
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
            if images[one.pair_id] is not None and len(foils) > 1:
                found.append(replace(one, foils=foils))
        smallest, n = smallest_sample(self._settings.level), len(spans_by_pair)
        if len(found) < smallest:
            return NotMeasurable(
                f"got {len(found)} measurable pairs of {n} ({n - len(versions)} without other words, without two "
                f"captions to compare with, or too long; {len(versions) - len(found)} with unreadable images), "
                f"expected at least {smallest}; check the images and captions of the pairs, or audit a larger corpus"
            )
        return PhraseSample(
            versions=found,
            own=np.stack([images[one.pair_id] for one in found]),
            # Where there are fewer foils they repeat: only the best one counts.
            foils=np.stack([np.stack(([images[foil] for foil, _ in one.foils] * count)[:count]) for one in found]),
        )

    def _versions(
        self, pair_id: str, spans: Sequence[Span], slice_kind: str, slice_name: str, without: frozenset[str]
    ) -> CaptionVersions | None:
        """Prepare the versions of a pair's caption, with foils among the captions `without` the phrase.

        Returns:
            None if the pair cannot be measured.
        """
        samples, settings = self._samples, self._settings
        caption = samples.caption_of(pair_id)
        if not self._fits(caption):
            caption = samples.model_captions.truncate(caption)
        rest, phrase = replace_spans(caption, spans, ""), caption[slice(*spans[0])]
        at_start = not caption[: spans[0][0]].strip()
        common = samples.foils.most_common_words(FILLER_WORDS, exclude=phrase)
        if not phrase_words(rest) or not common:
            return None
        length = len(phrase_words(phrase)) or 1
        random = generator("filler", samples.seed, pair_id)
        chosen = [random.choice(common, length, replace=length > len(common)) for _ in range(settings.controls)]
        fillers = [" ".join(map(str, words)) for words in chosen]

        def accept(other: str) -> bool:
            longer = (add_words(other, words, at_start) for words in (phrase, fillers[0]))
            return other in without and self._fits(other) and all(map(self._fits, longer))

        foils = samples.foils.find(rest, pair_id, slice_kind, slice_name, settings.foils, accept)
        replaced = [
            version
            for filler in fillers
            if self._fits(version := replace_spans(caption, spans, filler))
            or self._count_tokens(filler) <= self._count_tokens(phrase)
        ]
        if len(foils) < 2 or not replaced:
            return None
        pairs = [(samples.choose_pair(other, pair_id, "holder"), other) for other in foils]
        return CaptionVersions(pair_id, pairs, caption, phrase, rest, fillers, replaced, at_start)

    def _score(self, sample: PhraseSample, versions: Sequence[Sequence[str]]) -> Numbers:
        """Return the margins of versions of each pair's caption: (pairs, versions)."""
        texts = np.stack([np.stack(self._samples.embed_captions(list(captions))) for captions in versions])
        return occlusion.foil_margin(texts, sample.own, sample.foils)

    def margins(self, sample: PhraseSample, fill: PhraseFill) -> Margins:
        """Measure the margins of a sample with and without the phrase, and those of its controls.

        A control measures a gain, but `Margins` contains margins after a loss, so the gain is subtracted from the clean
        margin.

        Args:
            sample: the pairs.
            fill: with `remove`, a control is the gain when the phrase is added to captions that lack it, since a phrase
                that the model does not know disturbs all captions alike. With `replace`, it is the gain when as many
                common words are put in the place of the phrase.
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
        return Margins(clean, rest, clean[:, None] - gains)

    def _gains_of_foils(self, sample: PhraseSample) -> Numbers:
        """Return the gain of each foil's margin from the added phrase: (pairs, controls), NaN for missing ones.

        The foil's margin is relative to the pair's image and those of the foils with a different meaning.
        """
        gains = np.full((len(sample.versions), self._settings.controls), np.nan)
        for number, one in enumerate(sample.versions):
            captions = [caption for _, caption in one.foils]
            for place, caption in enumerate(captions[: self._settings.controls]):
                differ = [self._samples.foils.differ(caption, other) for other in captions]
                others = np.stack([sample.own[number], *sample.foils[number, : len(differ)][differ]])
                texts = np.stack(self._samples.embed_captions([caption, add_words(caption, one.phrase, one.at_start)]))
                before, after = occlusion.foil_margin(texts[None], sample.foils[number, place][None], others[None])[0]
                gains[number, place] = after - before
        return gains

    def transplant(self, sample: PhraseSample) -> Numbers:
        """Measure how much more a foil's margin rises if the phrase, and not a filler, is added to its caption."""
        versions = [
            [add_words(one.foils[0][1], words, one.at_start) for words in (one.phrase, one.fillers[0])]
            for one in sample.versions
        ]
        scores = self._score(sample, versions)
        rises: Numbers = scores[:, 0] - scores[:, 1]
        return rises
