"""What an agent knows about its traffic: counters, access events, lifecycle events, traces.

Nothing here publishes. The request path adds to plain integers; once a second an actor takes what
has gathered as JSON-shaped dicts, and the admin server asks for the Prometheus text. Whatever a
caller or a peer can choose (statuses, names, paths, rates) is bounded here, because telemetry that
a stranger can grow is a way to stop the agent.
"""
