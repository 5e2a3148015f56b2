"""Fixtures of the attacks."""

import gc

import pytest


@pytest.fixture(autouse=True)
def unfrozen():
    """Objects that a command froze are collected again, so that DuckDB's binding reports no leaks at exit."""
    yield
    gc.unfreeze()
