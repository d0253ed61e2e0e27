"""The demo: a shop of three services, its mesh, its traffic and its faults, on one machine."""
