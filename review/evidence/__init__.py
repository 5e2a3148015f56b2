"""Decisions of reviewers, and verification of what is stored."""
