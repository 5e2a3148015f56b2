"""Captions -> phrases: which could be artefacts, with the tokens they are, and which make slices."""

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
    """Rows of `phrases`; attributions: pair_id, caption, tokens and special of each.

    An occurrence whose tokens cannot be told, or that truncation has cut off, is left out.
    """
    pairs = Counter(row["caption"] for row in attributions)
    located: dict[str, list[dict[str, Any]]] = {}
    candidates = find_candidates(pairs, settings.listed, min_pairs)
    for row in attributions:
        caption = row["caption"]
        if caption not in located:
            spans = token_spans(caption, row["tokens"], row["special"])
            located[caption] = [
                {"region": candidate.region, "kind": candidate.kind, "first": found[0], "last": found[1]}
                for candidate in candidates
                for span in candidate.spans.get(caption, ())
                if (found := token_range(span, spans, row["tokens"])) is not None
            ]
        for phrase in located[caption]:
            yield {"pair_id": row["pair_id"], **phrase}


def collocation_rows(attributions: Sequence[dict[str, Any]], min_pairs: int) -> Iterator[dict[str, Any]]:
    """Rows of `collocations`; attributions: pair_id and caption of each."""
    found = find_collocations(Counter(row["caption"] for row in attributions), min_pairs)
    for row in attributions:
        for name in found.get(row["caption"], ()):
            yield {"pair_id": row["pair_id"], "collocation": name}


def find_phrases(run: Run, settings: PhrasesConfig, min_pairs: int) -> int:
    """Store `phrases` and `collocations` of all attributed pairs; returns how many occurrences of phrases there are."""
    columns = ["pair_id", "caption", "tokens", "special"]
    rows = list(run.iter_rows("attributions", columns))
    run.write_table("collocations", collocation_rows(rows, min_pairs))
    return run.write_table("phrases", phrase_rows(rows, settings, min_pairs))


@task(name="phrases", **TASK_OPTIONS)
def phrases(run: Run, settings: PhrasesConfig, min_pairs: int) -> int:
    """Propose phrases; see `find_phrases`."""
    return find_phrases(run, settings, min_pairs)
