"""The trust log, followed: agents and authorities keep what the mesh believes at its newest, on disk too."""
