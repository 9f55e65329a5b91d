"""Reports of sweep results: tables and charts, with the published numbers beside them."""
