"""The steps from a release to a root's tables, one module each."""
