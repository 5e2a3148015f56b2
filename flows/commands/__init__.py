"""The commands of the command line, as plain functions. `flows.cli` gives them their names."""
