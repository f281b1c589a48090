"""The RADOS library: block is what volumes and images are made of. It knows no contract, no host and no server."""
