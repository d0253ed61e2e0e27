"""Who is in the mesh: what an instance announces, and what others make of it."""
