"""Captions -> phrases: find phrases that could be artifacts, with their tokens, and collocations for slices."""

from collections import Counter
from typing import Any

from prefect import task

from tasks.execution import TASK_OPTIONS
from tasks.lake.run import Run
from tasks.settings import PhrasesConfig
from tasks.text.boilerplate import find_candidates
from tasks.text.collocations import find_collocations
from tasks.text.spans import token_range, token_spans


@task(name="phrases", **TASK_OPTIONS)
def phrases(run: Run, settings: PhrasesConfig, min_pairs: int) -> int:
    """Store `phrases` and `collocations` of all attributed pairs, and return the number of occurrences of phrases.

    Occurrences that were truncated, or whose tokens cannot be located, are left out.
    """
    rows = list(run.iter_rows("attributions", ["pair_id", "caption", "tokens", "special"]))
    pairs = Counter(row["caption"] for row in rows)
    found = find_collocations(pairs, min_pairs)
    named = ({"pair_id": row["pair_id"], "collocation": name} for row in rows for name in found.get(row["caption"], ()))
    candidates = find_candidates(pairs, settings.listed, min_pairs)
    located: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        if (caption := row["caption"]) not in located:
            spans = token_spans(caption, row["tokens"], row["special"])
            located[caption] = [
                {"region": candidate.region, "kind": candidate.kind, "first": tokens[0], "last": tokens[1]}
                for candidate in candidates
                for span in candidate.spans.get(caption, ())
                if (tokens := token_range(span, spans, row["tokens"])) is not None
            ]
    with run.changes() as changes:
        changes.write_table("collocations", named)
        return changes.write_table(
            "phrases", ({"pair_id": row["pair_id"], **phrase} for row in rows for phrase in located[row["caption"]])
        )
