"""The web: addresses, permission, and one polite client."""
