"""What each vendor's own tools add to the generic accelerator: one file per vendor."""
