"""In-memory worlds for the simulator: same ports as the real ones, judged by the same contract suites."""
