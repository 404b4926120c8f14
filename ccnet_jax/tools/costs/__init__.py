"""What a config costs, computed without a GPU: operations, device memory, and the time they bound."""
