"""Speed and cost, measured as ratios within one run."""
