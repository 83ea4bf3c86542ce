"""From predictions to scores; knows no method. METRICS is where a new metric is entered."""
