"""The stages. Each is thin: read the config, build, run. The only package that imports ray and mlflow."""
