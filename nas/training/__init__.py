"""Data, training, and the oracles that rate architectures."""
