"""What all of Google's APIs have in common: documents, masks and pages on the wire, errors, and operations."""
