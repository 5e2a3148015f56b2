"""The text of events, notifications and Prefect artifacts."""
