"""One test for each threat of the threat model in SECURITY.md, named after it."""
