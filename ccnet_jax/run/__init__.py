"""What lies in the folder of a run: config, classes, checkpoints, metrics, pictures."""
