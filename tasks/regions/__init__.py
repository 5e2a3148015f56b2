"""Regions of an image as boxes: from detectors, masks and cells."""
