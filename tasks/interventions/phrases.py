"""Measuring a phrase on a sample of captions: what the margin of their images loses when the phrase is left out.

The score is a caption's: cosine with its own image, less that with the best of some foil images, whose captions say
something else and lack the phrase. Two controls: the same phrase in captions that lack it, and as many of the corpus's
commonest words in its place. A caption that the tokenizer cut off ends here where the model's sight of it ended, and
nothing is added where the context has no room for it.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np

from m2ib.analysis import occlusion
from tasks.interventions.captions import SeenCaptions
from tasks.interventions.regions import Probe
from tasks.interventions.statistics import Margins, Numbers, generator, least_pairs
from tasks.lake.run import Run
from tasks.settings import ConfirmConfig, CorpusConfig, ModelConfig
from tasks.text.boilerplate import phrase_words
from tasks.text.spans import Span

PhraseFill = Literal["remove", "replace"]
PHRASE_FILLS: tuple[PhraseFill, ...] = ("remove", "replace")

FILLERS = 8
"""Commonest words of the corpus that controls are drawn from."""
_BATCH = 64
_MORE = " a"  # one more word, in any vocabulary or unknown to it


@dataclass(frozen=True)
class Wordings:
    """A pair's caption, what becomes of it, and the pairs that it is held against.

    foils: pair ids with their captions. filled: fillers in the phrase's place, those that the context has room for.
    front: whether the phrase comes first, and is put first into other captions.
    """

    pair_id: str
    foils: list[tuple[str, str]]
    caption: str
    phrase: str
    rest: str
    fillers: list[str]
    filled: list[str]
    front: bool

    def added(self, caption: str, words: str) -> str:
        """Another caption with words at the phrase's end of it."""
        return added(caption, words, self.front)


@dataclass(frozen=True)
class PhraseTrial:
    """Pairs that can be measured, and embeddings of images: own (pairs, embed), foils (pairs, foils, embed)."""

    wordings: list[Wordings]
    own: Numbers
    foils: Numbers


def added(caption: str, words: str, front: bool) -> str:
    """The caption with words before or behind it."""
    return f"{words} {caption}" if front else f"{caption} {words}"


def edited(caption: str, spans: Sequence[Span], filler: str) -> str:
    """The caption with something else in the place of each span, and one space between words."""
    parts, behind = [], 0
    for start, end in spans:
        parts += [caption[behind:start], filler]
        behind = end
    return " ".join(" ".join([*parts, caption[behind:]]).split())


class PhraseProbe(Probe):
    """A probe that measures phrases as well."""

    def __init__(self, run: Run, corpus: CorpusConfig, model: ModelConfig, settings: ConfirmConfig, seed: int) -> None:
        super().__init__(run, corpus, model, settings, seed)
        self._run = run
        self._fitting: dict[str, bool] = {}

    @cached_property
    def _seen(self) -> SeenCaptions:
        return SeenCaptions(self._run)

    def _fits(self, text: str) -> bool:
        """Whether the model sees all of a text: one more word changes its tokens.

        A text that fills the context to the last token does not count as fitting.
        """
        if text not in self._fitting:
            plain, longer = self._network.token_ids([text, text + _MORE])
            self._fitting[text] = bool((plain != longer).any())
        return self._fitting[text]

    def _size(self, words: str) -> int:
        """How many tokens some words have, special ones aside but for a constant."""
        some, none = self._network.token_ids([words, ""])
        return int((some != none).sum())

    def phrase_trial(self, places: Mapping[str, Sequence[Span]], slice_kind: str, name: str) -> PhraseTrial | str:
        """What can be measured of a sample of a slice, or one sentence on why too little can.

        places: by pair id, in the sample's order, where the phrase stands in its caption.
        """
        lacking = self._seen.lacking(places)
        asked = [self._wordings(pair_id, spans, slice_kind, name, lacking) for pair_id, spans in places.items()]
        worded = [one for one in asked if one is not None]
        self._embed_pairs([pair_id for one in worded for pair_id in (one.pair_id, *(foil for foil, _ in one.foils))])
        found = []
        for one in worded:
            foils = [(pair_id, caption) for pair_id, caption in one.foils if self._images[pair_id] is not None]
            if self._images[one.pair_id] is not None and len(foils) > 1:
                found.append(replace(one, foils=foils))
        least = least_pairs(self._settings.level)
        if len(found) < least:
            return (
                f"got {len(found)} of {len(places)} pairs that can be measured ({len(asked) - len(worded)} without "
                f"other words, two captions to compare with or room in the model's context, {len(worded) - len(found)} "
                f"whose images no longer read), expected at least {least}; look at the pairs, or audit a larger corpus"
            )
        count = self._settings.foils
        return PhraseTrial(
            wordings=found,
            own=np.stack([self._images[one.pair_id] for one in found]),
            # The best foil counts: one that is there twice changes nothing.
            foils=np.stack(
                [np.stack(([self._images[foil] for foil, _ in one.foils] * count)[:count]) for one in found]
            ),
        )

    def _wordings(
        self, pair_id: str, spans: Sequence[Span], slice_kind: str, name: str, lacking: frozenset[str]
    ) -> Wordings | None:
        whole, seed = self._rows[pair_id]["caption"], self._seed
        caption = whole if self._fits(whole) else self._seen.beginning(whole)
        rest, phrase, front = edited(caption, spans, ""), caption[slice(*spans[0])], not caption[: spans[0][0]].strip()
        common = self._captions.commonest(FILLERS, phrase)
        if not phrase_words(rest) or not common:
            return None
        size = len(phrase_words(phrase)) or 1
        random = generator("filler", seed, pair_id)
        drawn = [random.choice(common, size, replace=size > len(common)) for _ in range(self._settings.controls)]
        fillers = [" ".join(map(str, words)) for words in drawn]

        def admits(other: str) -> bool:
            longer = (added(other, words, front) for words in (phrase, fillers[0]))
            return other in lacking and self._fits(other) and all(map(self._fits, longer))

        others = self._captions.foils(rest, pair_id, slice_kind, name, self._settings.foils, admits)
        filled = [
            version
            for filler in fillers
            if self._fits(version := edited(caption, spans, filler)) or self._size(filler) <= self._size(phrase)
        ]
        if len(others) < 2 or not filled:
            return None
        return Wordings(
            pair_id=pair_id,
            foils=[(self._holder(other, pair_id), other) for other in others],
            caption=caption,
            phrase=phrase,
            rest=rest,
            fillers=fillers,
            filled=filled,
            front=front,
        )

    def _holder(self, caption: str, pair_id: str) -> str:
        """A pair that has a caption."""
        place = int.from_bytes(hashlib.sha256(f"{self._seed}\x1fholder\x1f{pair_id}".encode()).digest()[:8])
        holders = self._holders[caption]
        return holders[place % len(holders)]

    def _embed_pairs(self, pair_ids: Sequence[str]) -> None:
        """Embed the images of pairs, each once a run; None for one that no longer reads."""
        new = [pair_id for pair_id in dict.fromkeys(pair_ids) if pair_id not in self._images]
        for start in range(0, len(new), _BATCH):
            pixels = {pair_id: self._read(pair_id) for pair_id in new[start : start + _BATCH]}
            read = {pair_id: image for pair_id, image in pixels.items() if image is not None}
            self._images.update(dict.fromkeys(pixels))
            if read:
                self._images.update(zip(read, self._embed(self._network.stack(list(read.values()))), strict=True))

    def _score(self, trial: PhraseTrial, versions: Sequence[Sequence[str]]) -> Numbers:
        """Margins of versions of each pair's caption: (pairs, versions)."""
        texts = np.stack([np.stack(self._embed_captions(list(own))) for own in versions])
        return occlusion.foil_margin(texts, trial.own, trial.foils)

    def phrase_margins(self, trial: PhraseTrial, fill: PhraseFill) -> Margins:
        """What the margin loses without the phrase, set against what controls bring.

        remove: what the phrase brings to captions that lack it, for their own images; a phrase that a model does not
        know disturbs these as much as those. replace: what as many common words bring to the caption's rest, in the
        phrase's place. `Margins` holds what controls lose, so a gain counts from the clean margin downwards.
        """
        plain = self._score(trial, [(one.caption, one.rest) for one in trial.wordings])
        clean, rest = plain[:, 0], plain[:, 1]
        if fill == "remove":
            gains = self._foreign_gains(trial)
        else:
            count = self._settings.controls
            scores = self._score(trial, [(one.filled * count)[:count] for one in trial.wordings])
            held = np.array([len(one.filled) for one in trial.wordings])
            gains = np.where(np.arange(count) < held[:, None], scores - rest[:, None], np.nan)
        return Margins(clean, rest, clean[:, None] - gains)

    def _foreign_gains(self, trial: PhraseTrial) -> Numbers:
        """What the phrase brings to foils' captions for their own images: (pairs, controls), NaN where there are fewer.

        Held against the same images: the pair's own, and those of the foils that say something else than this one.
        """
        gains = np.full((len(trial.wordings), self._settings.controls), np.nan)
        for number, one in enumerate(trial.wordings):
            captions = [caption for _, caption in one.foils]
            for place, caption in enumerate(captions[: self._settings.controls]):
                others = [self._captions.differ(caption, other) for other in captions]
                rivals = np.stack([trial.own[number], *trial.foils[number, : len(others)][others]])
                texts = np.stack(self._embed_captions([caption, one.added(caption, one.phrase)]))
                before, after = occlusion.foil_margin(texts[None], trial.foils[number, place][None], rivals[None])[0]
                gains[number, place] = after - before
        return gains

    def phrase_rises(self, trial: PhraseTrial) -> Numbers:
        """What the phrase, added to a foil's caption, brings to the pair's image beyond what a filler does there."""
        versions = [
            [one.added(one.foils[0][1], words) for words in (one.phrase, one.fillers[0])] for one in trial.wordings
        ]
        scores = self._score(trial, versions)
        rises: Numbers = scores[:, 0] - scores[:, 1]
        return rises
