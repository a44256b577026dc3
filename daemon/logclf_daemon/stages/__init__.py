"""Stages: one file each. They know the vocabulary and the tools, never each other."""
