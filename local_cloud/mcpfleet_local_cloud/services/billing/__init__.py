"""Cloud Billing v1: whether a project can spend money. This one cannot."""
