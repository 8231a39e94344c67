"""Moving a running guest to another host: what stands in the way, and the next step of one move. Pure."""
