"""What Weights & Biases shows of a run."""
