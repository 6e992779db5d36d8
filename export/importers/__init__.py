"""Importers: one module for each layout in which people have trained avatars; `export.importers.choice` picks one."""
