"""Messages: formats, envelopes, routing to handlers, requests in flight. Knows no sockets and no rooms."""
