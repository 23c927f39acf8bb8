"""IAM v1: service accounts, their keys, and who may use them."""
