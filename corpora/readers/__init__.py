"""Readers of corpora: one module per format, and the modules that they share."""
