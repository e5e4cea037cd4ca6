"""The web: addresses, permission, one polite client, and the ledger of what was asked for."""
