"""The authority: the process that says who is a member of the mesh.

It answers two subjects, enrolment and renewal, and is not on the way of any request: while it is down,
traffic and policies go on, and SVIDs stay valid for at least half of their life.
"""
