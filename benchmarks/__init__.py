"""Speed and cost, measured as ratios within one run; and recall on artefacts that were planted."""
