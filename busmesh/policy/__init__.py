"""Policies: documents that people write, revisions that agents fold, rules that requests meet.

The nouns: a *document* says one thing about one service and has a *key* (kind, namespace, name); a
*revision* puts and removes documents, all at once or not at all; a *policy set* is what stands after
folding every revision so far; a *snapshot* is a policy set compiled for one caller, and the only thing of
all these that the request path sees.
"""
