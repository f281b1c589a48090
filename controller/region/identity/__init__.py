"""Projects, the parents of what tenants make."""
