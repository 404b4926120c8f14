"""Tools around a network, of optional packages; only programs import them."""
