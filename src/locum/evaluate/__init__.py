"""How good a model is on text it has not seen, and how far one model is from another."""
