"""The report: its chapters, rendered as HTML and as PDF."""
