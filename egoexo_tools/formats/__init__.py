"""Formats of other programs, a module each, and the benchmark's own, which is read here too.

EXPORTERS is where one to write is entered; `source` says what its module holds. What people bring
along is read in `parsing`.
"""
