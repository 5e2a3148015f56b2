"""Run audits: the Prefect flow of an audit, its configuration, and the command line."""

from time import monotonic

START = monotonic()
"""Time at which this process first imported the program."""
