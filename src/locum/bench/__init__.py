"""Side-by-side measurement under one memory limit. Results lie in `benchmarks/`."""
