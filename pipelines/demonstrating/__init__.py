"""The demo: the chain of stages that can be continued, and the report of what came out."""
