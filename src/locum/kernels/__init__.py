"""Expert layers as torch sees them: the reference in plain torch."""
