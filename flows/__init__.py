"""When things happen: the audit's flow, its configuration, and the command line."""
