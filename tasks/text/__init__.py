"""Words, tokens and phrases of captions."""
