"""Data formats: published layouts and generated scenes, the data store, the mask table, and the order of training.

Knows nothing of the network.
"""
