"""Training LM-EEC: clips, augmentation, losses, rates, and the task that the loop runs."""
