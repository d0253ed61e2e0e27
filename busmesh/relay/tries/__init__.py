"""A request sealed for one instance: sent, asked after, answered, or given up."""
