"""The Python client of Lipstream."""
