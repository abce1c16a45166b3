"""MLflow's own client, used here to read results back."""

import warnings

# MLflow's database models raise deprecation warnings of SQLAlchemy once, when they are first
# imported; with warnings as errors they would stay half configured for the whole session.
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import mlflow.store.tracking.sqlalchemy_store  # noqa: F401
