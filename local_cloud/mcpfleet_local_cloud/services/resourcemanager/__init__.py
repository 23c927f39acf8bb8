"""Cloud Resource Manager v1: the one project of a cloud, and its IAM policy."""
