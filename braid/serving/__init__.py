"""A model behind HTTP: one engine that advances all requests together, and the routes to it."""
