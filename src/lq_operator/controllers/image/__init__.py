"""Images: imported into the pools where Volumes need them, one job each, and removed with their Image."""
