"""Object storage: addresses, a client with conditional writes, and a lease. Nothing here knows what the objects mean."""
