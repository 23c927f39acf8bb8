"""The server that the official conformance suite asks for, on the same hosting layer as the reference server.

    python -m mcp_server.conformance

Its tools, resources and prompts have the names, texts and schemas that the suite checks
(https://github.com/modelcontextprotocol/conformance); nobody would want them in a server of their own, so they
are here and not in `app.py`. The image does not hold this package.
"""
