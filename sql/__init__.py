"""The SQL text of the audit and the only access to DuckDB.

Parquet files are the truth. Every connection is in memory, with views over the files that the lake's manifests list.

- `schema/`: types of the stored tables
- `views/`: what analysts query
- `macros/`: expressions that several views and queries share
- `derive/`: what a stage computes and stores
- `gates/`: what validation checks
- `rules/`: queries whose rows are findings
- `retention/`: which runs pruning keeps
- `review/`: what the report, the site and the command line show
"""

from sql.lake import (
    COMPLETE,
    LEDGER_TABLES,
    PRUNED,
    TABLES,
    Connection,
    audit_id,
    connect,
    is_complete,
    manifest_path,
    manifest_sha256,
    read_manifests,
)
from sql.queries import conform, describe_view, query_digest, query_names, query_text, schema, text_digest, view_names
from sql.read import QueryError, frame, read, read_table, rows, table
from stores import LakeError

__all__ = [
    "COMPLETE",
    "LEDGER_TABLES",
    "PRUNED",
    "TABLES",
    "Connection",
    "LakeError",
    "QueryError",
    "audit_id",
    "conform",
    "connect",
    "describe_view",
    "frame",
    "is_complete",
    "manifest_path",
    "manifest_sha256",
    "query_digest",
    "query_names",
    "query_text",
    "read",
    "read_manifests",
    "read_table",
    "rows",
    "schema",
    "table",
    "text_digest",
    "view_names",
]
