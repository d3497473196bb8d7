"""locum runs Mixture-of-Experts language models in far less memory than they need, bit for bit."""

__version__ = "0.1.0.dev0"
