"""The gateway: who may see and type, where the guest is, and how its console and screen reach many readers.

It reads the API and writes nothing there; it opens no port of a host. What it sends to a guest is what somebody typed.
"""
