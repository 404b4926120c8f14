"""What every room may need: errors, settings, labels, files, devices, progress. Needs the kernels alone."""
