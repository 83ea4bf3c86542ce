"""Turns an Ego-Exo4D release into a checked, queryable dataset of correspondence pairs."""

__version__ = "0.1.0"
