"""Captions -> phrases: find phrases that could be artifacts, with their tokens, and collocations for slices."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from prefect import task

from tasks.execution import TASK_OPTIONS
from tasks.lake.run import Run
from tasks.settings import PhrasesConfig
from tasks.text.boilerplate import find_candidates
from tasks.text.collocations import find_collocations
from tasks.text.spans import token_range, token_spans


def phrase_rows(
    attributions: Sequence[dict[str, Any]], settings: PhrasesConfig, min_pairs: int
) -> Iterator[dict[str, Any]]:
    """Yield rows of `phrases`, given pair_id, caption, tokens and special of each pair.

    Occurrences that were truncated, or whose tokens cannot be located, are left out.
    """
    pairs = Counter(row["caption"] for row in attributions)
    located: dict[str, list[dict[str, Any]]] = {}
    candidates = find_candidates(pairs, settings.listed, min_pairs)
    for row in attributions:
        caption = row["caption"]
        if caption not in located:
            spans = token_spans(caption, row["tokens"], row["special"])
            located[caption] = [
                {"region": candidate.region, "kind": candidate.kind, "first": tokens[0], "last": tokens[1]}
                for candidate in candidates
                for span in candidate.spans.get(caption, ())
                if (tokens := token_range(span, spans, row["tokens"])) is not None
            ]
        for phrase in located[caption]:
            yield {"pair_id": row["pair_id"], **phrase}


def collocation_rows(attributions: Sequence[dict[str, Any]], min_pairs: int) -> Iterator[dict[str, Any]]:
    """Yield rows of `collocations`; see `phrase_rows`."""
    collocations = find_collocations(Counter(row["caption"] for row in attributions), min_pairs)
    for row in attributions:
        for name in collocations.get(row["caption"], ()):
            yield {"pair_id": row["pair_id"], "collocation": name}


@task(name="phrases", **TASK_OPTIONS)
def phrases(run: Run, settings: PhrasesConfig, min_pairs: int) -> int:
    """Store `phrases` and `collocations` of all attributed pairs, and return the number of occurrences of phrases."""
    rows = list(run.iter_rows("attributions", ["pair_id", "caption", "tokens", "special"]))
    with run.changes() as changes:
        changes.write_table("collocations", collocation_rows(rows, min_pairs))
        return changes.write_table("phrases", phrase_rows(rows, settings, min_pairs))
