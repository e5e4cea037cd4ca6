"""The web: addresses, permission, one polite client, and queues of many hosts."""
