"""The plane of one cell: takes intent from the region, places servers, makes hosts follow, and reports what is so."""
