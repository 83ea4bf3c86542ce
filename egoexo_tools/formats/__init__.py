"""One module a format; see export.py."""
