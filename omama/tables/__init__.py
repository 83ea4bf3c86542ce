"""Loading of a root's frames, masks and pairs: from Parquet, or from files mapped into memory.

`loading` chooses between `mapped` (files that all processes share) and `parquet`.
"""
