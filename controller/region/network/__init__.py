"""Networks, subnets and ports as tenants ask for them, with the numbers, addresses and MACs that the region hands out."""
