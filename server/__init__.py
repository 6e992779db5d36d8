"""Starts Triton without a container."""
