"""IAM Credentials v1: tokens in the name of a service account, for those who may ask."""
