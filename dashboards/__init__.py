"""Figures, the report of a run, and Optuna Dashboard."""
