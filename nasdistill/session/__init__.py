"""A search from request to report. The parts below know nothing of one another; here they are put in a line."""
