"""What keeps a run alive: its folder, checkpoints and metrics, its clock, how it stops, its hosts."""
