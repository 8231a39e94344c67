"""The VM controller: observe -> decide (core/lifecycle) -> act -> report, and the operations on VMs."""
