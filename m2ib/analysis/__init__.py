"""Analyses that use images and attribution maps: occlusion, recurring overlays, clusters and sweeps of settings."""
