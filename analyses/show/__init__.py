"""How findings are shown: page, tables, numbers, figures, terminal, JSON."""
