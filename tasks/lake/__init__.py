"""What writes and keeps the runs of a lake."""
