"""What a run stored about the words of its captions: what the model saw of each, and which of them have a phrase."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

from tasks.lake.run import Run
from tasks.text.spans import Span, phrase_span, token_spans


class SeenCaptions:
    """The captions of all attributed pairs, by their stored tokens and by the rows of `phrases`."""

    def __init__(self, run: Run) -> None:
        columns = ["pair_id", "caption", "tokens", "special"]
        rows = list(run.iter_rows("attributions", columns))
        self._caption = {row["pair_id"]: row["caption"] for row in rows}
        self._spans = {row["caption"]: token_spans(row["caption"], row["tokens"], row["special"]) for row in rows}
        self._regions: dict[tuple[str, Span], set[str]] = defaultdict(set)
        self._having: dict[str, set[str]] = defaultdict(set)
        for row in run.iter_rows("phrases", ["pair_id", "region", "first", "last"]):
            caption = self._caption[row["pair_id"]]
            span = phrase_span(row["first"], row["last"], self._spans[caption])
            self._regions[caption, span].add(row["region"])
            self._having[row["region"]].add(caption)

    def beginning(self, caption: str) -> str:
        """A caption up to the end of its last token whose place is known."""
        return caption[: max((span[1] for span in self._spans[caption] if span is not None), default=0)]

    def lacking(self, places: Mapping[str, Sequence[Span]]) -> frozenset[str]:
        """The captions that lack a phrase, given by where it stands in some pairs.

        Two phrases that stand at the same places in all of these pairs cannot be told apart: both are lacked.
        """
        at = [self._regions[self._caption[pair_id], span] for pair_id, spans in places.items() for span in spans]
        having = {caption for region in set(self._having).intersection(*at) for caption in self._having[region]}
        return frozenset(self._spans) - having
