"""The region's controller: it takes in what users want, keeps it, picks cells, and shows what the cells report."""
