"""The `kumo` command: a client of the API and nothing else. Modules are loaded when a command needs them."""
