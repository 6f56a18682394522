"""Grids, the ledger of trials, and running them on Ray Tune."""
