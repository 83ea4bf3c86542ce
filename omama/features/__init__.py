"""Frozen features of frames and masks, and their cache."""
