"""Models, and the problems one chip computes for a part of one."""
