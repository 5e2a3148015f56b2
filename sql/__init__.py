"""The SQL text of the audit and the only access to DuckDB.

Parquet files are the truth. Every connection is in memory, with views over the files that the lake's manifests list.

- `schema/`: types of the stored tables
- `views/`: what analysts query
- `macros/`: expressions that several views and queries share
- `derive/`: what a stage computes and stores
- `gates/`: what validation checks
- `rules/`: queries whose rows are findings
- `kept/`: which runs pruning keeps
- `review/`: what the report, the site and the command line show
"""

from sql.lake import (
    COMPLETE,
    FROM_LEDGER,
    PRUNED,
    TABLES,
    Connection,
    audit_id,
    connect,
    is_complete,
    manifest_path,
    manifest_sha256,
    manifests,
)
from sql.queries import conform, digest, names, query, schema, text_digest
from sql.read import QueryError, frame, read, read_table, rows, table
from stores import LakeError

__all__ = [
    "COMPLETE",
    "FROM_LEDGER",
    "PRUNED",
    "TABLES",
    "Connection",
    "LakeError",
    "QueryError",
    "audit_id",
    "conform",
    "connect",
    "digest",
    "frame",
    "is_complete",
    "manifest_path",
    "manifest_sha256",
    "manifests",
    "names",
    "query",
    "read",
    "read_table",
    "rows",
    "schema",
    "table",
    "text_digest",
]
