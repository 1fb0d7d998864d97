"""Data formats: the published layouts that are read, the data store and the mask table. Knows nothing of the network."""
