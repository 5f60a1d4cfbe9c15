"""One thread that watches over a running guest: consoles, signals, deadline, control socket."""
