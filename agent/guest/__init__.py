"""What answers guests: DHCP and metadata, in one unprivileged process that holds no key and outlives the agent."""
