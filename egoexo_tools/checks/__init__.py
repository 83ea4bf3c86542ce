"""Checks whether a root's tables agree with each other and with the files."""
