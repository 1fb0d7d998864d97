"""One living owner for every folder that a stage writes."""
