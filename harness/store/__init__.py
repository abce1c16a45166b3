"""Run folders, and MLflow as a view of them."""
