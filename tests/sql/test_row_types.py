"""Types of rows that cross packages: they have the columns of the stored tables."""

from datetime import datetime
from typing import get_args, get_type_hints

import pyarrow as pa
import pytest

import sql
from sql.row_types import AlertHistoryRow, AlertRow

ROW_TYPES = {"alerts": AlertRow, "lives": AlertHistoryRow}


def python_type(kind):
    """The Python type of values of an Arrow type."""
    if pa.types.is_list(kind):
        return list[python_type(kind.value_type)]
    scalars = {pa.types.is_timestamp: datetime, pa.types.is_boolean: bool, pa.types.is_integer: int}
    scalars |= {pa.types.is_floating: float, pa.types.is_string: str}
    return next(value for is_kind, value in scalars.items() if is_kind(kind))


@pytest.mark.parametrize("table", ROW_TYPES)
def test_a_row_type_has_the_columns_and_types_of_its_table(table):
    hints = get_type_hints(ROW_TYPES[table])
    fields = {field.name: python_type(field.type) for field in sql.schema(table)}
    assert set(hints) == set(fields)
    for name, expected in fields.items():
        assert hints[name] == expected or set(get_args(hints[name])) == {expected, type(None)}, name
