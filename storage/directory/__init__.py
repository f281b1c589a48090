"""A pool without Ceph: volumes, images and owners' marks as files in a directory of one host."""
