"""How each family of formats is divided into units: messages, lines, turns."""
