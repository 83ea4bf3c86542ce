"""LM-EEC: an object followed through time in a second view, with memories of both views.

Its network is SAM 2.1's parts from transformers (the optional group `memory`).
"""
