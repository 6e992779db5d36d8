"""Measures Lipstream beside what it replaces."""
