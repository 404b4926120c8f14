"""The page of `python -m ccnet_jax.explore`: what it answers, how it is served, and what a browser shows."""
