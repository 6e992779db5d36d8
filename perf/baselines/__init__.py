"""The ways of working that Lipstream is measured beside."""
