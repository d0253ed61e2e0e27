"""What many tests stand on: a real bus, real processes, a real application."""
