"""Generated from proto/etcd by proto/generate_store.py: etcd's v3 messages. Apache-2.0, see LICENSE."""
