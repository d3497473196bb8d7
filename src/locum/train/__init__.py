"""Training locum-tiny: the corpus, the recipe, the loop and the baselines."""
