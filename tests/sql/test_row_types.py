"""Types of rows that cross packages: they have the columns of the stored tables."""

from datetime import datetime
from typing import get_args, get_origin, get_type_hints, is_typeddict

import pyarrow as pa
import pytest

import sql
from sql.row_types import AlertHistoryRow, AlertRow

ROW_TYPES = {"alerts": AlertRow, "lives": AlertHistoryRow}


def python_type(kind):
    """The Python type of values of an Arrow type."""
    if pa.types.is_list(kind):
        return [python_type(kind.value_type)]
    if pa.types.is_struct(kind):
        return {field.name: python_type(field.type) for field in kind}
    scalars = {pa.types.is_timestamp: datetime, pa.types.is_boolean: bool, pa.types.is_integer: int}
    scalars |= {pa.types.is_floating: float, pa.types.is_string: str}
    return next(value for is_kind, value in scalars.items() if is_kind(kind))


def describe_hint(hint):
    """A type hint, with the columns of a typed dictionary in its place, and without None."""
    (hint,) = [each for each in get_args(hint) if each is not type(None)] if type(None) in get_args(hint) else [hint]
    if get_origin(hint) is list:
        return [describe_hint(each) for each in get_args(hint)]
    return get_type_hints(hint) if is_typeddict(hint) else hint


@pytest.mark.parametrize("table", ROW_TYPES)
def test_a_row_type_has_the_columns_and_types_of_its_table(table):
    hints = get_type_hints(ROW_TYPES[table])
    fields = {field.name: python_type(field.type) for field in sql.schema(table)}
    assert set(hints) == set(fields)
    for name, expected in fields.items():
        assert describe_hint(hints[name]) == expected, name
