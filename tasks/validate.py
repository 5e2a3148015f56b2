"""Gates: checks of the corpus and the attributions with Great Expectations. A critical failure stops the pipeline.

Great Expectations has no DuckDB backend, and its checks of rows pass for NaN and for empty tables. Therefore the
queries of sql/gates compute finiteness and completeness as columns, and every suite counts its rows first.
"""

import hashlib
import json
import logging
from collections.abc import Mapping
from typing import Any

from prefect import task

import sql
from tasks.execution import TASK_OPTIONS
from tasks.lake.run import Run
from tasks.messages.gates import format_failed_check
from tasks.progress import track
from tasks.records import GateOutcome

CRITICAL, WARNING = "critical", "warning"
# A cosine in float32 may exceed 1 by rounding.
_COSINE = {"min_value": -1.0001, "max_value": 1.0001}

# suite -> checks as (expectation, settings, severity)
SUITES: Mapping[str, tuple[tuple[str, dict[str, Any], str], ...]] = {
    "accounting": (
        ("ExpectTableRowCountToEqual", {"value": 1}, CRITICAL),
        ("ExpectColumnValuesToNotBeNull", {"column": "rows_unaccounted"}, CRITICAL),
        ("ExpectColumnValuesToNotBeNull", {"column": "pairs_unaccounted"}, CRITICAL),
        ("ExpectColumnValuesToBeBetween", {"column": "rows_unaccounted", "min_value": 0, "max_value": 0}, CRITICAL),
        ("ExpectColumnValuesToBeBetween", {"column": "pairs_unaccounted", "min_value": 0, "max_value": 0}, CRITICAL),
        # With less the readable pairs may not represent the corpus.
        ("ExpectColumnValuesToBeBetween", {"column": "readable_share", "min_value": 0.9}, WARNING),
    ),
    "corpus": (
        ("ExpectTableRowCountToBeBetween", {"min_value": 1}, CRITICAL),
        ("ExpectColumnValuesToNotBeNull", {"column": "pair_id"}, CRITICAL),
        ("ExpectColumnValuesToBeUnique", {"column": "pair_id"}, CRITICAL),
        ("ExpectColumnValuesToNotBeNull", {"column": "caption"}, CRITICAL),
        ("ExpectColumnValueLengthsToBeBetween", {"column": "caption", "min_value": 1}, CRITICAL),
        ("ExpectColumnValuesToBeBetween", {"column": "width", "min_value": 1}, CRITICAL),
        ("ExpectColumnValuesToBeBetween", {"column": "height", "min_value": 1}, CRITICAL),
    ),
    "attributions": (
        ("ExpectTableRowCountToBeBetween", {"min_value": 1}, CRITICAL),
        ("ExpectColumnValuesToBeUnique", {"column": "pair_id"}, CRITICAL),
        *(
            ("ExpectColumnValuesToNotBeNull", {"column": column}, CRITICAL)
            for column in ("cosine", "image_cosine", "text_cosine", "image_nats", "text_nats")
        ),
        *(
            ("ExpectColumnValuesToBeBetween", {"column": column, **_COSINE}, CRITICAL)
            for column in ("cosine", "image_cosine", "text_cosine")
        ),
        *(
            ("ExpectColumnValuesToBeInSet", {"column": f"{tower}_map_{check}", "value_set": [True]}, CRITICAL)
            for tower in ("image", "text")
            for check in ("complete", "finite")
        ),
        # Rounding may make the nats of an unchanged gate slightly negative.
        ("ExpectColumnValuesToBeBetween", {"column": "image_map_min", "min_value": -1e-3}, CRITICAL),
        ("ExpectColumnValuesToBeBetween", {"column": "text_map_min", "min_value": -1e-3}, CRITICAL),
        # A single empty map is valid, but a corpus of empty maps says nothing about the model.
        ("ExpectColumnMeanToBeBetween", {"column": "image_nats", "min_value": 1e-3}, CRITICAL),
    ),
}


def suite_digest(suite: str) -> str:
    """Return the sha256 of a suite's checks and its query."""
    text = json.dumps(SUITES[suite], sort_keys=True) + sql.query_text(f"gates/{suite}")
    return hashlib.sha256(text.encode()).hexdigest()


def check_frame(suite: str, frame: Any) -> list[dict[str, Any]]:
    """Run a suite on a pandas frame, and return one row of `validations` per check. A check that raises has failed."""
    import great_expectations as gx  # takes 6 to 10 seconds

    # It logs its temporary folders, on a logger that ignores the level of its parents.
    logging.getLogger("great_expectations.data_context.types.base").setLevel(logging.WARNING)
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    checks = SUITES[suite]
    expectations = [
        getattr(gx.expectations, name)(**settings, severity=severity, meta={"number": number})
        for number, (name, settings, severity) in enumerate(checks)
    ]
    batch = context.data_sources.pandas_default.read_dataframe(frame)
    outcome = batch.validate(gx.ExpectationSuite(name=suite, expectations=expectations))
    # Results are grouped by column.
    results = sorted(outcome.results, key=lambda result: result.expectation_config.meta["number"])
    rows = []
    for (name, settings, severity), result in zip(checks, results, strict=True):
        raised = result.exception_info or {}
        detail = raised.get("exception_message") or next(
            (value["exception_message"] for value in raised.values() if isinstance(value, dict)), None
        )
        observed = result.result.get("observed_value", result.result.get("partial_unexpected_list") or None)
        rows.append(
            {
                "suite": suite,
                "suite_digest": suite_digest(suite),
                "expectation": name,
                "column_name": settings.get("column"),
                "severity": severity,
                "success": bool(result.success),
                "observed": None if observed is None else str(observed),
                "unexpected_count": result.result.get("unexpected_count"),
                "detail": str(detail) if detail else json.dumps(settings, sort_keys=True),
            }
        )
    return rows


def check_run(run: Run) -> GateOutcome:
    """Run all suites on a run, store `validations`, and return which checks failed."""
    rows: list[dict[str, Any]] = []
    with run.connect() as connection:
        for suite in track(SUITES, description="checking gates"):
            rows.extend(check_frame(suite, sql.table(connection, f"gates/{suite}", run_id=run.run_id).to_pandas()))
        totals = next(iter(sql.rows(connection, "gates/accounting", run_id=run.run_id)), {})
    run.write_table("validations", rows)
    failed = [row for row in rows if not row["success"]]
    critical = [row for row in failed if row["severity"] == CRITICAL]
    # Without pairs every check of pairs fails: one sentence is enough.
    for empty in ("corpus", "attributions"):
        if any(_is_row_count(row, empty) for row in critical):
            critical = [row for row in critical if row["suite"] == "accounting" or _is_row_count(row, empty)]
            break
    return GateOutcome(
        checks=len(rows),
        critical=tuple(format_failed_check(row, totals) for row in critical),
        warnings=tuple(format_failed_check(row, totals) for row in failed if row["severity"] == WARNING),
    )


def _is_row_count(row: Mapping[str, Any], suite: str) -> bool:
    return row["suite"] == suite and row["column_name"] is None


validate = task(name="validate", **TASK_OPTIONS)(check_run)
