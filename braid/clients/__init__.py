"""Clients: other people's evaluations ask braid's models in their own words."""
