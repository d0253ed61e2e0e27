"""The runtime of the control side: actors with bounded mailboxes under a supervisor.

No request passes through here: the request path reads snapshots that actors publish.
"""
