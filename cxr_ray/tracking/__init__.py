"""The home of MLflow."""
