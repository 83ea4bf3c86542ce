"""Pictures, pages and numbers for people."""
