"""How units of work run, are resumed, are kept apart and are told of."""
