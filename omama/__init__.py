"""Learns and scores object correspondence between ego and exo views."""
