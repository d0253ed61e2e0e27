"""The request path, room by room in the order of a request.

On the caller's side ``client``, ``outbound``, ``destination``, ``tries``; on the receiver's ``inbound``,
``application``. The sides know nothing of each other: between them are the bus and the keys that ``session``
agrees on. What stands beside the rooms is used in several.
"""
