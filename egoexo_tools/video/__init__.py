"""Reads exact frames from videos, and writes videos and frame images."""
