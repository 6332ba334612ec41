"""The rendezvous host of FMI's direct channel: `server.py` is what runs on it."""
