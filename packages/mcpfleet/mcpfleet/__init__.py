"""Reach private MCP servers on Cloud Run: ID tokens, a local proxy, checks.

Its modules, in an order in which each imports only modules before it:

- `system`: the differences between Linux, macOS and Windows
- `errors`, `inert`, `terminal`, `tracing`: errors, untrusted text, the console, traces
- `bounds`, `jsonc`, `jsonrpc`, `sse`, `tools`: parsers of untrusted data, with limits
- `net`, `target`, `same_origin`: connections to services, and protection of local servers from web pages
- `tokens`, `google_transport`, `google_sources`, `token_sources`, `diagnosis`, `auth`: identities, and refusals
- `grammar`, `stack`, `options`: the servers of a stack
- `service`, `reach`: the library for services that call servers
- `upstream`, `sessions`, `pending`, `relay`, `stdio`: `mcpfleet connect`
- `proxy`: `mcpfleet proxy`
- `desktop_clients`, `client_files`, `configure`: `mcpfleet config`
- `schemas`, `contract`: what servers list, and what has changed
- `server_session`, `tool_calls`, `golden`, `locks`: MCP sessions with servers, golden calls, locked contracts
- `access_checks`, `client_checks`, `verify`, `doctor`, `prerequisites`, `reports`: verify and doctor
- `server_commands`: `mcpfleet call` and `mcpfleet tools`
- `packages`: `mcpfleet packages`
- `projects`: `mcpfleet check`, and what other distributions add to the command
- `secret_manager`: `mcpfleet secrets`
- `scaffold`, `init`: `mcpfleet init`
- `project_commands`: the commands of a user's project
- `cli`: the command
"""
