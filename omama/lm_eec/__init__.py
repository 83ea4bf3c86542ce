"""LM-EEC: predicts an object's masks in a second view over time, with memory banks of both views.

Its network consists of SAM 2.1's parts from transformers (the optional dependency group `memory`).
"""
