"""Movers carry bytes into slots. The virtual, throttled and faulty ones live here, the real ones in `store`."""
