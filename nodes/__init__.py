"""The six agents, one file each: what it reads, writes and asks for. They know the gateways and no more."""
