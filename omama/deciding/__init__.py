"""Deciding: which of a pair's best candidates, with what frame and track say of them."""
