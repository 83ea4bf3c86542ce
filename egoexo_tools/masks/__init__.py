"""Masks: run lengths, columns of many, bitmaps."""
