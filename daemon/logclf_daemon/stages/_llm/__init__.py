"""Private parts of the LLM stage."""
