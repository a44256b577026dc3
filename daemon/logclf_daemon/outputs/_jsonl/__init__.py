"""Private parts of the JSON lines output."""
