"""What this machine can do, measured once and cached: disk read rate, memory bandwidth, limits. No torch."""
