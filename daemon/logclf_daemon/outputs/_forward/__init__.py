"""Private parts of the forward output."""
