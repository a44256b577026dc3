"""Training for logclf-daemon: from a corpus of log-line templates, or a user's labelled rows, to a model folder."""
