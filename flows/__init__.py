"""Run audits: the Prefect flow of an audit, its configuration, and the command line."""
