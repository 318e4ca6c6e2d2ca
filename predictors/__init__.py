"""Accuracy predictors and what they look at."""
