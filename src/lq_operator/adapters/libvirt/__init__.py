"""Hosts through libvirt: the only room that imports libvirt. Its xml/ is pure and does not.

`LibvirtFleet` keeps the connections; a `LibvirtHost` is one of them.
"""
