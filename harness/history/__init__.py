"""What runs of the past say: where a case changed, and how a new run stands to them (pure)."""
