"""The slow tier: where each expert's bytes lie, the arena they are read into, and the Movers that read. No torch."""
