"""Text, pictures and pairs in the form that the site, the report, messages and the command line show."""
