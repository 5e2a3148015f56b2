"""Captions -> phrases: find phrases that could be artifacts, with their tokens, and collocations for slices."""

from collections.abc import Iterator
from functools import lru_cache
from itertools import islice
from typing import Any, Final

from prefect import task

import sql
from tasks.execution import TASK_OPTIONS
from tasks.lake.run import Run
from tasks.settings import PhrasesConfig
from tasks.text.boilerplate import Candidates
from tasks.text.captions import Captions
from tasks.text.collocations import adjacent_words, find_collocations
from tasks.text.spans import token_range, token_spans

_BATCH: Final = 8192
_KEPT_CAPTIONS: Final = 8192


@task(name="phrases", **TASK_OPTIONS)
def phrases(run: Run, settings: PhrasesConfig, min_pairs: int) -> int:
    """Store `phrases` and `collocations` of all attributed pairs, and return the number of occurrences of phrases.

    Occurrences that were truncated, or whose tokens cannot be located, are left out.
    """
    with run.connect() as connection:
        captions = Captions(sql.table(connection, "derive/captions", run_id=run.run_id))
    collocations = find_collocations(captions, min_pairs)
    candidates = Candidates(captions, settings.listed, min_pairs)

    @lru_cache(_KEPT_CAPTIONS)
    def locate(caption: str, tokens: tuple[str, ...], special: tuple[bool, ...]) -> list[dict[str, Any]]:
        spans = token_spans(caption, tokens, special)
        return [
            {"region": candidate.region, "kind": candidate.kind, "first": found[0], "last": found[1]}
            for candidate, span in candidates.locate(caption)
            if (found := token_range(span, spans, tokens)) is not None
        ]

    def rows_of_phrases(row: dict[str, Any]) -> Iterator[dict[str, Any]]:
        for phrase in locate(row["caption"], tuple(row["tokens"]), tuple(row["special"])):
            yield {"pair_id": row["pair_id"], **phrase}

    def rows_of_collocations(row: dict[str, Any]) -> Iterator[dict[str, Any]]:
        for name in sorted(adjacent_words(row["caption"]) & collocations):
            yield {"pair_id": row["pair_id"], "collocation": name}

    rows = run.iter_rows("attributions", ["pair_id", "caption", "tokens", "special"])
    with (
        run.changes() as changes,
        changes.open_writer("phrases") as phrase_writer,
        changes.open_writer("collocations") as collocation_writer,
    ):
        while batch := list(islice(rows, _BATCH)):
            phrase_writer.write(phrase for row in batch for phrase in rows_of_phrases(row))
            collocation_writer.write(found for row in batch for found in rows_of_collocations(row))
    return phrase_writer.rows
