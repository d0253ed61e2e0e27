"""What an operator sees and does: the roll call, the policy log, publishing, telemetry.

Nothing here is a process. An operator asks, reads the log, perhaps appends one signed revision, waits for
what the agents say of it, and is gone; the mesh does not know that they exist.
"""
