"""Proofs: checks that take minutes, run by ``make proofs`` and left out of the ordinary suite."""
