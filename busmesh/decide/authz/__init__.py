"""Whether an instance serves a request: who calls, on whose behalf, and what is asked.

The nouns, from the outside in: an *authorizer* is all that protects one instance; it first has the tokens
of a request checked (*authentication*: who the end user is) and then asks its *policies*, Istio's in names
and order. A policy's *rules* are lists of *terms*. What a term says of the caller is settled once per
caller; what is left are conditions on one request's *facts*.
"""
