"""Maintenance of hosts: emptied by moves, named what stays, back to service."""
