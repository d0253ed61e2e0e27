"""Every function that reads what came over the bus, with messages that it takes and what it refuses with."""
