"""The decision: pure and light. No clock, file, socket, thread, log or global random state."""
