"""Training callbacks: recovery, weight averaging, export of weights, progress and others."""
