"""How the units of a stage run, resume after an interruption, exclude each other and report."""
