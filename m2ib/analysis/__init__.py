"""Analyses of images and maps around the method: clusters, occlusion, recurring overlays."""
