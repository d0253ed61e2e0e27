"""The local client: connections accepted, requests parsed, responses written."""
