"""Training without a cluster: input, optimizer, schedule, one step, checkpoints. `pipelines.train` runs it on Ray."""
