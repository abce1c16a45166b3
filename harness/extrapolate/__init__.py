"""From the time of each op on one chip to a step on a whole cluster."""
