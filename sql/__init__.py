"""SQL queries of the audit, and the functions that run them with DuckDB.

The Parquet files of a lake are the only stored data. Every connection is an in-memory database with views over the
files that the lake's manifests list. The folders contain:

- `schema/`: definitions of the stored tables
- `views/`: views for analysts
- `macros/`: expressions that several views and queries use
- `derive/`: queries whose results a stage stores
- `gates/`: queries of the validation stage
- `rules/`: queries whose rows are findings
- `retention/`: queries that select the runs to keep when a lake is pruned
- `erasure/`: queries that find what identifies erased pairs
- `review/`: queries of the report, the site and the command line
"""

from sql.lake import (
    COMPLETE,
    PRUNED,
    audit_id,
    audit_ids,
    connect,
    is_complete,
    is_trusted,
    latest_run,
)
from sql.manifest import is_id, manifest_sha256, parse_manifest, read_manifests
from sql.queries import (
    conform,
    conform_columns,
    describe_view,
    query_names,
    query_text,
    schema,
    text_digest,
    view_names,
)
from sql.read import QueryError, batches, materialize, read, read_table, rows, table
from sql.tables import FOREIGN_ROWS, TABLES, Connection, has_foreign_rows, list_damage
from stores import LakeError

__all__ = [
    "COMPLETE",
    "FOREIGN_ROWS",
    "PRUNED",
    "TABLES",
    "Connection",
    "LakeError",
    "QueryError",
    "audit_id",
    "audit_ids",
    "batches",
    "conform",
    "conform_columns",
    "connect",
    "describe_view",
    "has_foreign_rows",
    "is_complete",
    "is_id",
    "is_trusted",
    "latest_run",
    "list_damage",
    "manifest_sha256",
    "materialize",
    "parse_manifest",
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
