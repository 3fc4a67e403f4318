"""Data types: guests, events, declarations, facts about the host, kernel objects, plans. Pure."""
