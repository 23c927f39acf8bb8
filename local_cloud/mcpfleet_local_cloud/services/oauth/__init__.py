"""OAuth 2.0: the token endpoint, the people who may use it, and the published keys."""
