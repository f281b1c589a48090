"""Storage on behalf of the leader that asks: volumes, owner marks, images and the bytes they come from."""
