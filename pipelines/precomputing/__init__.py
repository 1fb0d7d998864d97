"""Instance masks of a data set on Ray Data: the pool of proposers, and the sink that commits what they find."""
