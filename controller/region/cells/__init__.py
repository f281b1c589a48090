"""What the region does with its cells, alike for every noun: choose one, push intent down, take status up."""
