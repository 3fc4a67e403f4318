"""vmnet-hookd, the resident agent: the same engine, kept warm, and what no short-lived hook can see."""
