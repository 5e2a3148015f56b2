"""Review of an audit: the report, the review site, decisions and the verification of a lake."""
