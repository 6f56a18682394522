"""Names of a study's page: as its owner reads it, and the copy that others may."""

PAGE_FILE = "report.html"
SHARED_FOLDER = "shared"
"""Holds a copy of a page that shows records, without them."""
