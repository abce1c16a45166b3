"""YAML files that say what to run; a package, so that an installed chipscale finds them."""
