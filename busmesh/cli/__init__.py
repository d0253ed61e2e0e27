"""Commands: what a person types, and nothing that a program could not do without them."""
