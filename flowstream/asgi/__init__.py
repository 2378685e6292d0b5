"""Delivery: from a buffer to one client, through any ASGI server on Trio."""
