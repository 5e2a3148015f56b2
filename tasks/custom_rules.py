"""Custom rules: SQL files in a folder, checked before an audit starts, and run like those of sql/rules.

A rule is a query over one run that returns findings; see docs/rules.md.
"""

import math
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

import sql
from tasks.errors import BadInputError

COLUMNS = ("region", "slice_kind", "slice", "n", "share", "area", "effect")
_NAME = re.compile(r"[a-z][a-z0-9_]*")
_MAX_BYTES = 2**20


def read_rules(folder: Path) -> dict[str, str]:
    """Return the SQL text of each `*.sql` file of a folder, by file name. Raises BadInputError for an unusable file."""
    files = sorted(folder.glob("*.sql")) if folder.is_dir() else []
    if not files:
        raise BadInputError(f"alerts.rules: got {folder}, expected a folder with at least one .sql file")
    return {file.stem: read_rule(file) for file in files}


def read_rule(file: Path) -> str:
    """Return the SQL text of a rule's file. Raises BadInputError if it cannot be read, or has an invalid name."""
    builtin = sql.query_names("rules")
    if not _NAME.fullmatch(file.stem) or file.stem in builtin:
        raise BadInputError(
            f"alerts.rules: got {file.name}, expected a name of lower-case letters, digits and underscores, other "
            f"than those of built-in rules ({', '.join(builtin)}); rename it"
        )
    try:
        if file.stat().st_size > _MAX_BYTES:
            raise BadInputError(f"alerts.rules: {file} has more than {_MAX_BYTES} bytes, expected one query")
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInputError(f"alerts.rules: {file} cannot be read ({error}); expected SQL in UTF-8") from error


def check_rules(rules: Mapping[str, str]) -> None:
    """Run each rule on an empty lake. Raises BadInputError for a rule that fails or returns the wrong columns."""
    if not rules:
        return
    with tempfile.TemporaryDirectory() as empty, sql.connect(Path(empty)) as connection:
        for name, text in rules.items():
            evaluate_rule(connection, name, text, {"run_id": "", "factor": 2.0, "min_pairs": 1})


def evaluate_rule(
    connection: sql.Connection, name: str, text: str, thresholds: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Run a custom rule with the thresholds as its parameters, and return rows of `findings`.

    Raises BadInputError, which names the rule and what to change, if the rule fails or returns invalid rows.
    """
    try:
        found = _check_types(sql.read_table(connection, text, thresholds))
    except (sql.QueryError, ValueError) as error:
        parameters = ", ".join(f"${key}" for key in thresholds)
        raise BadInputError(f"rule {name}: {error}; parameters are {parameters}, see docs/rules.md") from error
    keys = {f"{key}s": [row[key] for row in found] for key in ("region", "slice_kind", "slice")}
    if unknown := sql.rows(connection, "derive/unmeasured_slices", run_id=thresholds["run_id"], **keys):
        raise BadInputError(
            f"rule {name}: got {unknown[0]} and {len(unknown) - 1} more, expected regions and slices of the view "
            "slice_shares, each once; take the columns region, slice_kind and slice from there"
        )
    return [{**row, "rule": name, "rule_digest": sql.text_digest(text)} for row in found]


def _check_types(found: pa.Table) -> list[dict[str, Any]]:
    """Cast rows that a rule returned to the types of `findings`. Raises ValueError for invalid columns or values."""
    if sorted(found.column_names) != sorted(COLUMNS):
        raise ValueError(f"got the columns {', '.join(found.column_names)}, expected {', '.join(COLUMNS)}")
    expected = pa.schema([sql.schema("findings").field(name) for name in COLUMNS])
    found = found.select(list(COLUMNS))
    types = zip(found.schema.types, expected.types, strict=True)
    if any(pa.types.is_string(kind) != pa.types.is_string(other) for kind, other in types):
        raise ValueError(f"got columns of the types {found.schema.types}, expected {expected.types}")
    try:
        typed = found.cast(expected)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise ValueError(f"got values that are not of the types {expected.types} ({error})") from error
    rows: list[dict[str, Any]] = typed.to_pylist()
    for row in rows:
        # NaN, which a division by zero returns, would outrank every number.
        if None in row.values() or not (
            row["n"] >= 1 and 0 <= row["share"] <= 1 and 0 < row["area"] <= 1 and math.isfinite(row["effect"])
        ):
            raise ValueError(
                f"got {row}, expected no NULL, n of 1 or more, share and area from 0 to 1, and a finite effect"
            )
    return rows
