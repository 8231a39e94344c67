"""Live moves: VirtualMachineMigration, and every VM whose placement is Moving."""
