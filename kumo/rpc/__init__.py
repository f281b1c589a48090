"""gRPC for every process: one server, one interceptor, one channel, and how errors travel between them."""
