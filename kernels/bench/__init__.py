"""What measures the op and checks it: benchmarks, block sizes, programs compiled without a GPU."""
