"""Models that rely on artefacts which we planted, so that recall and false alarms of an audit can be counted."""
