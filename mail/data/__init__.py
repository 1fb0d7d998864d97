"""Data formats: the published layouts, the data store and the mask table. Knows nothing of the network."""
