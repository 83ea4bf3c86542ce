"""Readers for files that other programs and people made; they validate everything they read."""
