"""Images as tenants ask for them, and the way of their bytes."""
