"""The local application: a pool of connections, requests written, responses parsed."""
