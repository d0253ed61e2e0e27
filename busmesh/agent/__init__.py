"""One service instance's agent: its actors, its request path, its admin endpoint, put together."""
