"""Students: small detectors built from families, and the weights they start from."""
