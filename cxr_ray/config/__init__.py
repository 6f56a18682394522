"""The typed schema of an experiment, its profiles, overrides and identity."""
