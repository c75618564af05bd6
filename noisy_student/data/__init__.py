"""From a person's files to splits."""
