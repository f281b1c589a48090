"""The guest images that the project builds itself: a tiny Linux, and a boot sector that only ticks."""
