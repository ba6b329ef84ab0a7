"""Microsoft's side of Teams Direct Routing: SIP proxies over mutual TLS, and their own view of every SBC."""
