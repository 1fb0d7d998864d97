"""The fine-tuning: from photos and sentences to a better model, and by how much it is better."""
