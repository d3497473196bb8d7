"""Other engines, each run in a process of its own under the same memory limit as locum."""
