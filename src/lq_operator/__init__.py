"""LimiQuantix: virtual machines on plain libvirt hosts, driven by Kubernetes custom resources."""

__version__ = "0.1.0"
