"""One service instance's agent: its actors, its request path, its admin endpoint, put together.

Read in this order: :mod:`~busmesh.agent.agent` is its life. :mod:`~busmesh.agent.dataplane` carries requests,
in the first process and in each worker alike. :mod:`~busmesh.agent.control` is what is decided once, in the
first process, with :mod:`~busmesh.agent.serving` for whether requests are taken. The other modules are the
parts of these.
"""
