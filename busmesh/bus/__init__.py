"""The bus: everything that busmesh knows about NATS ends at this package's edge."""
