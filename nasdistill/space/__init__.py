"""Search spaces: what a search may choose from, read from strict YAML files."""
