"""From predictions to scores; knows no method."""
