"""The keys that two agents share: handshakes over the bus."""
