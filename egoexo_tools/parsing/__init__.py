"""Files from outside: what they may look like, and readers that never trust them."""
