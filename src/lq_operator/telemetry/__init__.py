"""What the operator tells people about itself: log lines, metrics, and whether it is alive and ready.

Owns the set-up of all three; decides nothing and imports neither kopf nor kubernetes nor libvirt.
"""
