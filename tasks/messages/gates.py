"""What a failed check of the gates means, in words: a person reads them in the terminal, the report and Prefect."""

from collections.abc import Mapping
from typing import Any, Final

_WHY: Final = 'why: m2ib-audit sql "SELECT reason, count(*) AS n FROM ingest_errors GROUP BY reason"'
_NO_COUNT: Final = "the run does not say how many rows its corpus has, so nothing can be accounted for"

# (suite, column) or, where that is not enough, (suite, column, expectation).
_WORDS: Final[Mapping[tuple[str | None, ...], str]] = {
    ("accounting", None): _NO_COUNT,
    ("accounting", "rows_unaccounted", "ExpectColumnValuesToNotBeNull"): _NO_COUNT,
    ("accounting", "pairs_unaccounted", "ExpectColumnValuesToNotBeNull"): _NO_COUNT,
    ("accounting", "rows_unaccounted"): "{rows_lost}, expected each of its {read_rows} to be a pair or an error row",
    ("accounting", "pairs_unaccounted"): (
        "{pairs_lost}, expected each of the {stored_pairs} to have an attribution or an error row"
    ),
    ("accounting", "readable_share"): (
        "only {stored_attributions} of the corpus's {distinct_rows} rows (duplicates aside) could be attributed, "
        f"expected nine in ten: what follows may not hold for all of it; {_WHY}"
    ),
    ("corpus", None): f"no row of the corpus became a pair, expected one at least: {{read_rows}} tried; {_WHY}",
    ("corpus", "caption", "ExpectColumnValueLengthsToBeBetween"): "{pairs} of the corpus {have} an empty caption",
    ("corpus", "width"): "{pairs} of the corpus {have} an image without width",
    ("corpus", "height"): "{pairs} of the corpus {have} an image without height",
    ("attributions", None): f"no pair was attributed, expected one at least; {_WHY}",
    ("attributions", "pair_id"): "{pairs} {have} been attributed more than once, expected once",
    ("attributions", "image_map_min"): "{pairs} {have} negative nats in their image map, expected 0 or more",
    ("attributions", "text_map_min"): "{pairs} {have} negative nats in their text map, expected 0 or more",
    ("attributions", "image_nats"): (
        "the image maps are empty ({observed} nats on average): the bottleneck found nothing that matters to the "
        "model, try a smaller beta"
    ),
}
_BY_ENDING: Final = {
    "_map_complete": "the {tower} maps of {pairs} are missing or do not fit their grid or tokens",
    "_map_finite": "the {tower} maps of {pairs} hold NaN or infinite values",
    "cosine": "{pairs} {have} a {column_name} that is no cosine, expected -1 to 1",
}
_BY_EXPECTATION: Final = {
    "ExpectColumnValuesToNotBeNull": "{pairs} {have} no {column_name}",
    "ExpectColumnValuesToBeUnique": "{pairs} {have} the same {column_name} as another, expected distinct ones",
}
_TOTALS: Final = (
    "read_rows", "distinct_rows", "stored_pairs", "stored_attributions", "rows_unaccounted", "pairs_unaccounted"
)  # fmt: skip
_ANYTHING: Final = "{expectation} failed, got {observed}, expected {detail}"


def format_failed_check(row: Mapping[str, Any], totals: Mapping[str, Any]) -> str:
    """Say what a failed check found, and the columns of `validations` by which it is looked up.

    row: of `validations`. totals: the row of gates/accounting, empty if there is none.
    """
    suite, column = row["suite"], row["column_name"]
    name = f" ({suite}.{column})" if column else f" ({suite})"
    if not row["detail"].startswith("{"):  # no settings: what it raised
        return f"a check could not be made: {row['detail']}{name}"
    number = {key: int(totals.get(key) or 0) for key in _TOTALS}
    count = row["unexpected_count"] or 0
    said = {
        **number,
        **row,
        "pairs": _counted(count, "pair"),
        "have": "has" if count == 1 else "have",
        "tower": (column or "").partition("_")[0],
        "rows_lost": _lost(number["rows_unaccounted"], "row", "of the corpus"),
        "pairs_lost": _lost(number["pairs_unaccounted"], "pair", ""),
    }
    return _words(suite, column, row["expectation"]).format(**said) + name


def _words(suite: str, column: str | None, expectation: str) -> str:
    if found := _WORDS.get((suite, column, expectation)) or _BY_EXPECTATION.get(expectation):
        return found
    if found := _WORDS.get((suite, column)):
        return found
    return next((words for end, words in _BY_ENDING.items() if column and column.endswith(end)), _ANYTHING)


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _lost(number: int, noun: str, of_what: str) -> str:
    what = f"{_counted(abs(number), noun)} {of_what}".strip()
    if number < 0:
        return f"{what} came out beyond those that there are"
    return f"{what} {'is' if number == 1 else 'are'} lost"
