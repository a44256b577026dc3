"""Private parts of the journald input."""
