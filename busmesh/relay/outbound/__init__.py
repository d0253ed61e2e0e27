"""A request on its way out: which rule, what the rule asks for, and waiting for a place."""
