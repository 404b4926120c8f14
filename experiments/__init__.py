"""Scripts behind every figure and table; each says in its docstring what it measures and how to run it."""
