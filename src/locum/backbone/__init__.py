"""A transformers model with its experts taken out: index, loading, the registered experts function."""
