"""Commands of `m2ib-audit`, as plain functions. `flows.cli` registers them under their names."""
