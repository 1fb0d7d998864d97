"""Evaluation of a model on a split on Ray Data, and the comparison of two evaluations."""
