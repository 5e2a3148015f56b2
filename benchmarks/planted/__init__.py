"""Models that rely on planted artifacts, to measure the recall and the false alarms of an audit."""
