"""Generation: requests, caches, steps, sampling, decode streams; `locum.load()`."""
