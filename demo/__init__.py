"""Demo of an audit: synthetic chest radiographs with a planted shortcut, and tiny models with and without it."""
