"""Messages about alerts and runs: events, Prefect artifacts and the sentences of failed checks."""
