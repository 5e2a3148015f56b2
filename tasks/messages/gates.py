"""Sentences about failed checks of the gates, for the terminal, the report and Prefect."""

from collections.abc import Mapping
from typing import Any, Final

from review.presentation.formatting import format_count

_REASONS: Final = 'for the reasons: m2ib-audit sql "SELECT reason, count(*) AS n FROM ingest_errors GROUP BY reason"'
_NO_COUNT: Final = "the manifest has no number of corpus rows, so rows cannot be accounted for"

# By (suite, column) or, where that is ambiguous, (suite, column, expectation).
_SENTENCES: Final[Mapping[tuple[str | None, ...], str]] = {
    ("accounting", None): _NO_COUNT,
    ("accounting", "rows_unaccounted", "ExpectColumnValuesToNotBeNull"): _NO_COUNT,
    ("accounting", "pairs_unaccounted", "ExpectColumnValuesToNotBeNull"): _NO_COUNT,
    ("accounting", "rows_unaccounted"): "{rows_lost}, expected each of its {read_rows} to be a pair or an error row",
    ("accounting", "pairs_unaccounted"): (
        "{pairs_lost}, expected each of the {stored_pairs} to have an attribution or an error row"
    ),
    ("accounting", "readable_share"): (
        "only {stored_attributions} of the corpus's {distinct_rows} rows (without duplicates) could be attributed, "
        f"expected at least 90%, so the results may not apply to the whole corpus; {_REASONS}"
    ),
    ("corpus", None): f"no row of the corpus became a pair ({{read_rows}} tried), expected at least one; {_REASONS}",
    ("corpus", "caption", "ExpectColumnValueLengthsToBeBetween"): "{pairs} of the corpus {have} an empty caption",
    ("corpus", "width"): "{pairs} of the corpus {have} an image without width",
    ("corpus", "height"): "{pairs} of the corpus {have} an image without height",
    ("attributions", None): f"no pair was attributed, expected at least one; {_REASONS}",
    ("attributions", "pair_id"): "{pairs} {have} been attributed more than once, expected once",
    ("attributions", "image_map_min"): "{pairs} {have} negative nats in their image map, expected 0 or more",
    ("attributions", "text_map_min"): "{pairs} {have} negative nats in their text map, expected 0 or more",
    ("attributions", "image_nats"): (
        "the image maps are empty ({observed} nats on average), because the bottleneck found nothing that the score "
        "depends on; try a smaller beta"
    ),
}
_SENTENCES_BY_SUFFIX: Final = {
    "_map_complete": "the {tower} maps of {pairs} are missing or do not fit their grid or tokens",
    "_map_finite": "the {tower} maps of {pairs} contain NaN or infinite values",
    "cosine": "{pairs} {have} an invalid {column_name}, expected -1 to 1",
}
_SENTENCES_BY_EXPECTATION: Final = {
    "ExpectColumnValuesToNotBeNull": "{pairs} {have} no {column_name}",
    "ExpectColumnValuesToBeUnique": "{pairs} {have} the same {column_name} as another pair, expected distinct values",
}
_FALLBACK: Final = "{expectation} failed, got {observed}, expected {detail}"
_TOTALS: Final = (
    "read_rows", "distinct_rows", "stored_pairs", "stored_attributions", "rows_unaccounted", "pairs_unaccounted"
)  # fmt: skip


def format_failed_check(row: Mapping[str, Any], totals: Mapping[str, Any]) -> str:
    """Return what a failed check (a row of `validations`) found, followed by its suite and column.

    The totals are the row of the query gates/accounting, or an empty mapping if the query returns no row.
    """
    suite, column = row["suite"], row["column_name"]
    name = f" ({suite}.{column})" if column else f" ({suite})"
    if not row["detail"].startswith("{"):  # an error message instead of the settings of the check
        return f"a check could not be made: {row['detail']}{name}"
    numbers = {key: int(totals.get(key) or 0) for key in _TOTALS}
    count = row["unexpected_count"] or 0
    values = {
        **numbers,
        **row,
        "pairs": format_count(count, "pair"),
        "have": "has" if count == 1 else "have",
        "tower": (column or "").partition("_")[0],
        "rows_lost": _format_lost(numbers["rows_unaccounted"], "row", " of the corpus"),
        "pairs_lost": _format_lost(numbers["pairs_unaccounted"], "pair", ""),
    }
    return _find_sentence(suite, column, row["expectation"]).format(**values) + name


def _find_sentence(suite: str, column: str | None, expectation: str) -> str:
    sentences = (
        _SENTENCES.get((suite, column, expectation)),
        _SENTENCES_BY_EXPECTATION.get(expectation),
        _SENTENCES.get((suite, column)),
        *(text for suffix, text in _SENTENCES_BY_SUFFIX.items() if column and column.endswith(suffix)),
    )
    return next(filter(None, sentences), _FALLBACK)


def _format_lost(number: int, noun: str, source: str) -> str:
    text, verb = format_count(abs(number), noun) + source, "is" if abs(number) == 1 else "are"
    return f"there {verb} {text} too many" if number < 0 else f"{text} {verb} lost"
