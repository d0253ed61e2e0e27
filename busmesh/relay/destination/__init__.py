"""Where requests go: the instances known, who is chosen, and what is held against whom."""
