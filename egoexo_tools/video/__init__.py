"""Exact frames out of videos, and videos out of frames."""
