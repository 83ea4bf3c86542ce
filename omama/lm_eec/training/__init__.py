"""Training of LM-EEC: clips, augmentation, losses, learning rates, and the loop's task."""
