"""Panels of a run in Weights & Biases."""
