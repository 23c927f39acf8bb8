"""Reach private MCP servers on Cloud Run: ID tokens, a local proxy, checks.

Its modules in an order in which each imports those before it only:

- `system`: what is not alike on Linux, macOS and Windows
- `errors`, `inert`, `terminal`, `tracing`: what is said, and how
- `bounds`, `jsonc`, `jsonrpc`, `sse`, `tools`: what others send, read within bounds
- `net`, `target`, `same_origin`: the way to a service, and who may use ours
- `tokens`, `endpoints`, `google_sources`, `token_sources`, `diagnosis`, `auth`: as whom, and why not
- `grammar`, `stack`, `options`: which servers
- `service`, `reach`: for services that call servers
- `upstream`, `sessions`, `pending`, `relay`, `stdio`: `mcpfleet connect`
- `proxy`: `mcpfleet proxy`
- `clients`, `install`, `configure`: `mcpfleet config`
- `access_checks`, `client_checks`, `verify`, `doctor`, `prerequisites`, `checks`: verify and doctor
- `packages`: `mcpfleet packages`
- `projects`: `mcpfleet check`, and what other distributions add to the command
- `scaffold`, `init`: `mcpfleet init`
- `project_commands`: the commands of a user's project
- `cli`: the command
"""
