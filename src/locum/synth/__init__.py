"""Checkpoints of real models' shapes with random weights. No torch."""
