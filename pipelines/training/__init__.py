"""Training on Ray Train: the driver of a run, its workers, their input, and what is told of them."""
