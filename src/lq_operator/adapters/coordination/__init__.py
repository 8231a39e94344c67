"""Leases with a term: who may write to which hosts now. Kubernetes Leases by default, etcd where it is asked for."""
