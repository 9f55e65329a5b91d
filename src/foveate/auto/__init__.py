"""`--method auto`: compare methods on the shots alone, choose one, and say how good it will be."""
