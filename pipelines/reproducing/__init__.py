"""The table of the paper: its rows, what they need, and the figures of the evaluations side by side with it."""
