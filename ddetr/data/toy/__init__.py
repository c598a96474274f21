"""How ToyCOCO is drawn: shapes, drawings of categories, backgrounds."""
