"""The tables of a root as training and prediction use them, mapped into memory and shared."""
