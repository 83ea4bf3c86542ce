"""O-MaMa: choose a proposal by comparing descriptors in context."""
