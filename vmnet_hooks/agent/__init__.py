"""vmnet-hookd, the resident agent: serves hooks with an engine that stays loaded, and handles events for which no hook is
called."""
