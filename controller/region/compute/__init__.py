"""Flavors and servers as tenants ask for them."""
