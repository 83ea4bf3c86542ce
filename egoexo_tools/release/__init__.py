"""Reads a release: its takes, annotations and splits, before a dataset root exists."""
