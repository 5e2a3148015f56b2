"""Measure speed and cost as ratios within one run, and the recall on planted artifacts."""
