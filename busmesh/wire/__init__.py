"""What travels: sealed frames, the requests and responses in them, and the replay window."""
