"""Fetches files of the release from the bucket to the disk."""
