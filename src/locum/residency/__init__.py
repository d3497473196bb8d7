"""What is in memory: the Ledger (decisions) and the Residency (slots, tickets, leases). No torch."""
