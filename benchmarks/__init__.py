"""The same job through busmesh and through Envoy, in turn, on one machine: ``python -m benchmarks``.

Words: a **contestant** is a set of running processes that can be driven; a **role** is a process that
two contestants have in common (the caller's proxy, the service's proxy); a **job** is a load; a
**round** drives every contestant once with every job. A **reference** is a contestant that is no mesh.
"""
