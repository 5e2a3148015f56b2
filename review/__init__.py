"""Who looks: reports over the lake. Read-only."""
