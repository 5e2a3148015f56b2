"""Gates: checks of the corpus and the attributions with Great Expectations. A critical failure stops the pipeline.

Great Expectations has no DuckDB backend, and its checks of rows pass for NaN and for empty tables. Therefore the
queries of sql/gates compute finiteness and completeness as columns, and every suite counts its rows first.
"""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from prefect import task

import sql
from review.presentation.numbers import format_count
from tasks.execution import TASK_OPTIONS
from tasks.lake.run import Run
from tasks.progress import track
from tasks.records import GateOutcome

CRITICAL, WARNING = "critical", "warning"


@dataclass(frozen=True)
class Check:
    """An expectation of Great Expectations, and the sentence that reports its failure: see `format_failed_check`."""

    expectation: str
    settings: Mapping[str, Any]
    sentence: str
    severity: str


def _check(name: str, column: str | None, sentence: str, severity: str = CRITICAL, **settings: Any) -> Check:
    return Check(f"Expect{name}", settings | ({} if column is None else {"column": column}), sentence, severity)


_REASONS = "the table ingest_errors has the reasons"
_NO_COUNT = "the manifest has no number of corpus rows, so rows cannot be accounted for"
_ROWS_LOST = "{rows_lost}, expected each of its {read_rows} rows to be a pair or an error row"
_PAIRS_LOST = "{pairs_lost}, expected each of the {stored_pairs} pairs to have an attribution or an error row"
_UNREADABLE = (
    "only {stored_attributions} of the corpus's {distinct_rows} rows (without duplicates) could be attributed, "
    f"expected at least 90%, so the results may not apply to the whole corpus; {_REASONS}"
)
_NO_PAIRS = f"no row of the corpus became a pair ({{read_rows}} rows read), expected at least one; {_REASONS}"
_NO_VALUE = "{pairs} {have} no {column_name}"
_SAME_ID = "{pairs} {have} the same {column_name} as another pair, expected distinct values"
_ATTRIBUTED_TWICE = "{pairs} {have} been attributed more than once, expected once"
_COSINE = "{pairs} {have} an invalid {column_name}, expected -1 to 1"
_INCOMPLETE = "the {tower} maps of {pairs} are missing or do not fit their grid or tokens"
_NOT_FINITE = "the {tower} maps of {pairs} contain NaN or infinite values"
_NEGATIVE = "{pairs} {have} negative nats in their {tower} map, expected 0 or more"
_EMPTY_MAPS = (
    "the image maps are empty ({observed} nats on average), because the bottleneck found nothing that the score "
    "depends on; try a smaller beta"
)

SUITES: Mapping[str, tuple[Check, ...]] = {
    "accounting": (
        _check("TableRowCountToEqual", None, _NO_COUNT, value=1),
        _check("ColumnValuesToNotBeNull", "rows_unaccounted", _NO_COUNT),
        _check("ColumnValuesToNotBeNull", "pairs_unaccounted", _NO_COUNT),
        _check("ColumnValuesToBeBetween", "rows_unaccounted", _ROWS_LOST, min_value=0, max_value=0),
        _check("ColumnValuesToBeBetween", "pairs_unaccounted", _PAIRS_LOST, min_value=0, max_value=0),
        # With less the readable pairs may not represent the corpus.
        _check("ColumnValuesToBeBetween", "readable_share", _UNREADABLE, WARNING, min_value=0.9),
    ),
    "corpus": (
        _check("TableRowCountToBeBetween", None, _NO_PAIRS, min_value=1),
        _check("ColumnValuesToNotBeNull", "pair_id", _NO_VALUE),
        _check("ColumnValuesToBeUnique", "pair_id", _SAME_ID),
        _check("ColumnValuesToNotBeNull", "caption", _NO_VALUE),
        _check("ColumnValueLengthsToBeBetween", "caption", "{pairs} {have} an empty caption", min_value=1),
        _check("ColumnValuesToBeBetween", "width", "{pairs} {have} an image without width", min_value=1),
        _check("ColumnValuesToBeBetween", "height", "{pairs} {have} an image without height", min_value=1),
    ),
    "attributions": (
        _check(
            "TableRowCountToBeBetween", None, f"no pair was attributed, expected at least one; {_REASONS}", min_value=1
        ),
        _check("ColumnValuesToBeUnique", "pair_id", _ATTRIBUTED_TWICE),
        *(
            _check("ColumnValuesToNotBeNull", column, _NO_VALUE)
            for column in ("cosine", "image_cosine", "text_cosine", "image_nats", "text_nats")
        ),
        *(
            # A cosine in float32 may exceed 1 by rounding.
            _check("ColumnValuesToBeBetween", column, _COSINE, min_value=-1.0001, max_value=1.0001)
            for column in ("cosine", "image_cosine", "text_cosine")
        ),
        *(
            _check("ColumnValuesToBeInSet", f"{tower}_map_{check}", sentence, value_set=[True])
            for tower in ("image", "text")
            for check, sentence in (("complete", _INCOMPLETE), ("finite", _NOT_FINITE))
        ),
        # Rounding may make the nats of an unchanged gate slightly negative.
        _check("ColumnValuesToBeBetween", "image_map_min", _NEGATIVE, min_value=-1e-3),
        _check("ColumnValuesToBeBetween", "text_map_min", _NEGATIVE, min_value=-1e-3),
        # A single empty map is valid, but a corpus of empty maps says nothing about the model.
        _check("ColumnMeanToBeBetween", "image_nats", _EMPTY_MAPS, min_value=1e-3),
    ),
}


def suite_digest(suite: str) -> str:
    """Return the sha256 of a suite's checks and its query."""
    checks = [(check.expectation, check.settings, check.severity) for check in SUITES[suite]]
    return sql.text_digest(json.dumps(checks, sort_keys=True) + sql.query_text(f"gates/{suite}"))


def check_frame(suite: str, frame: Any) -> list[dict[str, Any]]:
    """Run a suite on a pandas DataFrame; return a row of `validations` per check. A check that raises has failed."""
    import great_expectations as gx  # takes 6 to 10 seconds

    # It logs its temporary folders, on a logger that ignores the level of its parents.
    logging.getLogger("great_expectations.data_context.types.base").setLevel(logging.WARNING)
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    expectations = [
        getattr(gx.expectations, check.expectation)(**check.settings, severity=check.severity, meta={"number": number})
        for number, check in enumerate(SUITES[suite])
    ]
    batch = context.data_sources.pandas_default.read_dataframe(frame)
    outcome = batch.validate(gx.ExpectationSuite(name=suite, expectations=expectations))
    # Results are grouped by column.
    results = sorted(outcome.results, key=lambda result: result.expectation_config.meta["number"])
    rows = []
    for check, result in zip(SUITES[suite], results, strict=True):
        raised = result.exception_info or {}
        detail = raised.get("exception_message") or next(
            (value["exception_message"] for value in raised.values() if isinstance(value, dict)), None
        )
        observed = result.result.get("observed_value", result.result.get("partial_unexpected_list") or None)
        rows.append(
            {
                "suite": suite,
                "suite_digest": suite_digest(suite),
                "expectation": check.expectation,
                "column_name": check.settings.get("column"),
                "severity": check.severity,
                "success": bool(result.success),
                "observed": None if observed is None else str(observed),
                "unexpected_count": result.result.get("unexpected_count"),
                "detail": str(detail) if detail else json.dumps(check.settings, sort_keys=True),
            }
        )
    return rows


@task(name="validate", **TASK_OPTIONS)
def validate(run: Run) -> GateOutcome:
    """Run all expectation suites on a run, store `validations`, and return the failed checks as sentences."""
    rows: list[dict[str, Any]] = []
    with run.connect() as connection:
        for suite in track(SUITES, description="checking gates"):
            rows.extend(check_frame(suite, sql.table(connection, f"gates/{suite}", run_id=run.run_id).to_pandas()))
        totals = next(iter(sql.rows(connection, "gates/accounting", run_id=run.run_id)), {})
    run.write_table("validations", rows)
    checks = [check for suite in SUITES.values() for check in suite]
    failed = [(row, check) for row, check in zip(rows, checks, strict=True) if not row["success"]]
    # Without pairs every check of pairs fails: one sentence is enough.
    empty = next(
        (row["suite"] for row, check in failed if row["column_name"] is None and row["suite"] != "accounting"), None
    )
    sentences: dict[str, list[str]] = {CRITICAL: [], WARNING: []}
    for row, check in failed:
        if empty is None or row["suite"] == "accounting" or (row["suite"] == empty and row["column_name"] is None):
            sentences[check.severity].append(format_failed_check(check, row, totals))
    return GateOutcome(tuple(sentences[CRITICAL]), tuple(sentences[WARNING]))


def format_failed_check(check: Check, row: Mapping[str, Any], totals: Mapping[str, Any]) -> str:
    """Return what a failed check (stored as a row of `validations`) found, followed by its suite and column.

    The totals are the row of the query gates/accounting, or an empty mapping if the query returns no row.
    """
    name = f" ({'.'.join(filter(None, (row['suite'], row['column_name'])))})"
    if not row["detail"].startswith("{"):  # an error message instead of the settings of the check
        return f"a check could not be made: {row['detail']}{name}"
    counts = ("read_rows", "distinct_rows", "stored_pairs", "stored_attributions", "rows_unaccounted")
    numbers = {key: int(totals.get(key) or 0) for key in (*counts, "pairs_unaccounted")}
    count = row["unexpected_count"] or 0
    values = {
        **numbers,
        **row,
        "pairs": format_count(count, "pair"),
        "have": "has" if count == 1 else "have",
        "tower": (row["column_name"] or "").partition("_")[0],
        "rows_lost": _format_lost(numbers["rows_unaccounted"], "row", " of the corpus"),
        "pairs_lost": _format_lost(numbers["pairs_unaccounted"], "pair", ""),
    }
    return check.sentence.format(**values) + name


def _format_lost(number: int, noun: str, source: str) -> str:
    text, verb = format_count(abs(number), noun) + source, "is" if abs(number) == 1 else "are"
    return f"there {verb} {text} too many" if number < 0 else f"{text} {verb} lost"
