"""Private parts of the forward input."""
