"""Commands for people: check, simulate, replay, why. Each reads, computes and prints; none writes anything anywhere."""
