"""Pure decisions on the way of a request: no clock, no I/O, no global randomness."""
