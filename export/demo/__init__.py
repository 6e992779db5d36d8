"""The demo avatar: a drawn presenter, its voices, and the networks trained on them."""
