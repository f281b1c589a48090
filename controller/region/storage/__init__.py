"""Volumes and attachments as tenants ask for them."""
