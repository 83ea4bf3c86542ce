"""Formats of other programs, one module each, and the benchmark's own, which is also read here.

A new export format is entered in EXPORTERS (`registry`); `source` says what its module defines.
Files that users bring along are read by `parsing`.
"""
