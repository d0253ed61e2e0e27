"""The request path, in the order of a request: listener, outbound, upstream, inbound, application."""
