"""The control plane: the region's controller, the cell's controller, and the program that runs either or both."""
