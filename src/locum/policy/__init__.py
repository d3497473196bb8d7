"""Decisions and nothing else: which expert to evict, what to fetch ahead. Small state over integers. No torch."""
