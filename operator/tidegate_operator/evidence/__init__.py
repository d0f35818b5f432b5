"""Pure room: counters to counts, counts to verdicts. Time is an argument."""
