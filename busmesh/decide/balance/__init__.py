"""Load balancing: which instance gets the next try.

The nouns, from the outside in: a *spec* is what a document says, as plain data; ``make`` turns it and the
members of a target into a *balancer*, anew whenever they change; ``pick`` is one synchronous call per try.
What a balancer knows of an instance is a *candidate*, whose *figures* the request path keeps. *Shares* say
how much goes to each locality before an instance within one is chosen.
"""

from __future__ import annotations

from busmesh.decide.balance.base import Balancer, Candidate
from busmesh.decide.balance.figures import Figures
from busmesh.decide.balance.hashing import HashSpec
from busmesh.decide.balance.locality import LocalitySpec
from busmesh.decide.balance.spec import DEFAULT_BALANCER, BalancerSpec, Simple, make
from busmesh.decide.balance.warmup import Warmup

__all__ = [
    "DEFAULT_BALANCER",
    "Balancer",
    "BalancerSpec",
    "Candidate",
    "Figures",
    "HashSpec",
    "LocalitySpec",
    "Simple",
    "Warmup",
    "make",
]
