"""Captions as the model reads them: truncated like the tokenizer does, with the spans of the phrases in them."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

from tasks.lake.run import Run
from tasks.text.spans import Span, phrase_span, token_spans


class ModelCaptions:
    """Captions of all attributed pairs, from their stored tokens and the rows of `phrases`."""

    def __init__(self, run: Run) -> None:
        rows = list(run.iter_rows("attributions", ["pair_id", "caption", "tokens", "special"]))
        self._captions = {row["pair_id"]: row["caption"] for row in rows}
        self._spans = {row["caption"]: token_spans(row["caption"], row["tokens"], row["special"]) for row in rows}
        self._phrases: dict[tuple[str, Span], set[str]] = defaultdict(set)
        self._captions_with: dict[str, set[str]] = defaultdict(set)
        for row in run.iter_rows("phrases", ["pair_id", "region", "first", "last"]):
            caption = self._captions[row["pair_id"]]
            span = phrase_span(row["first"], row["last"], self._spans[caption])
            self._phrases[caption, span].add(row["region"])
            self._captions_with[row["region"]].add(caption)

    def truncate(self, caption: str) -> str:
        """Return a caption up to the end of its last token."""
        return caption[: max((span[1] for span in self._spans[caption] if span is not None), default=0)]

    def find_without(self, spans_by_pair: Mapping[str, Sequence[Span]]) -> frozenset[str]:
        """Return the captions that do not contain a phrase.

        Args:
            spans_by_pair: spans of the phrase in the captions of some pairs. Other phrases that match at all of these
                spans count as the same phrase: captions with any of them are not returned.
        """
        phrases = [
            self._phrases[self._captions[pair_id], span] for pair_id, spans in spans_by_pair.items() for span in spans
        ]
        matching = set(self._captions_with).intersection(*phrases)
        return frozenset(self._spans).difference(*(self._captions_with[phrase] for phrase in matching))
