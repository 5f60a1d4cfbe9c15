"""The host's side of VFIO: a function is lent to a guest, and comes back whatever happened.

The order is a transaction: match what the definition means, preflight all that can be
known, journal what is (and fsync it), then change drivers; at the end, or at the next
start when the owner was killed, reset the function and put driver and override back.
docs/decisions/0060 to 0063 say why it is so.
"""
