"""Decisions of reviewers, and verification of stored files and records."""
