"""Training: parameter groups and optimizer, the jitted step, and the loop around it."""
