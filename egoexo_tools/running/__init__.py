"""How units of work are run, resumed, locked and told of."""
