"""What every process of Kumo shares: contracts, store, rpc, errors, names, configuration, logs and metrics."""

VERSION = "0.1.0"
