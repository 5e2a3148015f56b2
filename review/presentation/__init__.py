"""How values, overlays and pairs are presented, in the site, the report, messages and the command line."""
