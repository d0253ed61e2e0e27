"""What is wrong with a mesh, said of what was found out about it: a line for each thing that was looked at.

Nothing here asks anybody; :mod:`busmesh.operator.checkup` does.
"""
