"""The stages: one file a subcommand (a folder for a group), each config, plan and run; the work is in the wings."""
