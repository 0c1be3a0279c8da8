"""Training: experiment, two gradients a step, checkpoints, several processes."""
