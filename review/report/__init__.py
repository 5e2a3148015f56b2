"""The report of a run: its chapters, rendered as HTML and as PDF."""
