"""A datacenter on one machine: a real control plane, N real libvirt hosts, a guest image, and their faults.

Import from `lq_operator.lab.datacenter`. This file stays empty so that the lab's small daemons start quickly.
"""
