"""How files are tailed: driven step by step, without a clock, a thread or a loop of its own."""
