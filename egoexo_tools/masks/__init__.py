"""Masks as run lengths, as columns of many masks, and as bitmaps."""
