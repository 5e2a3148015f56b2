"""The embedded demo: chest phantoms with a planted shortcut, and a tiny model with and without it."""
