"""Device-facing listeners: sockets, admission, back-pressure. Authenticates, authorises, decodes, hands to the stream."""
