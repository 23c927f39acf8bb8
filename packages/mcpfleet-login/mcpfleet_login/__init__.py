"""Login for an MCP server: an OAuth 2.1 authorization server, and a gate in front of the application.

| module | contents |
|---|---|
| `settings.py` | the environment |
| `sealing.py` | encrypted, time-stamped values that only this resource can open |
| `store.py`, `cloud_storage.py` | the objects that must be unique: their interface, and Cloud Storage |
| `clients.py`, `documents.py` | OAuth clients: registered ones, and client ID metadata documents |
| `redirects.py` | which redirect URIs a client may have and use |
| `issuer.py` | the OpenID Connect issuer where people log in |
| `members.py` | who may use the server |
| `families.py` | logins: one record for each, with its code and refresh tokens |
| `provider.py` | the MCP SDK's interface of an authorization server's state |
| `consent.py`, `pages.py` | the pages that a person sees |
| `authorization_server.py` | the endpoints |
| `gate.py` | checks access tokens, and passes requests on to the application |
| `hosting.py` | the runner |

docs/adr/0031, 0032 and 0033 have the reasons. The package knows neither Pulumi nor the fleet; `settings.py` is the
contract with them.
"""

__version__ = "0.1.0"
