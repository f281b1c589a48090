"""Generated from proto/store by proto/generate_store.py."""
