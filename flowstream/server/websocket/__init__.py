"""WebSockets: a handshake that is checked, and messages with a bound."""
