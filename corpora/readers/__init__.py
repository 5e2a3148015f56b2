"""Readers of corpora: one format a file."""
