"""The regression gate's rule: rounds of base and head -> a state for every case (pure)."""
