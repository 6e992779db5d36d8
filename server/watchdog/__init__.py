"""Keeps a Triton serving, and says how it is.

`processes` and `answers` find what is broken, `restart` starts Triton again, `watch` runs all of it and keeps the
`health`, which `endpoint` gives to monitors and `systemd` to the service manager.
"""
