"""Frozen features of frames and masks, and their cache. BACKBONES is where a new one is entered."""
