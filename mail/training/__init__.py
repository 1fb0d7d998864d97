"""Training without a cluster: input, optimizer, schedule, one step, checkpoints; on Ray, `pipelines.training`."""
