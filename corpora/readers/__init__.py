"""Readers of corpora, one format per file."""
