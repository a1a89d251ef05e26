"""The wire: request heads, frames, transports, and the way out of one connection. Knows no rooms."""
