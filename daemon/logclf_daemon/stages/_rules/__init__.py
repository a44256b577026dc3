"""Private parts of the rules stage."""
