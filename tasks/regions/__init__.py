"""Regions of an image."""
