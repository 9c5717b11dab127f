"""How fast a release is packed."""
