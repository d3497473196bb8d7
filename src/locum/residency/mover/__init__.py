"""Movers carry bytes into slots. Virtual, throttled and faulty ones live here, the real ones in `store`."""
