"""busmesh: a service mesh whose control plane and data plane are both messages on NATS."""

__version__ = "0.1.0"
