"""What things are: guests, events, declarations, facts, kernel objects, plans. Pure data."""
