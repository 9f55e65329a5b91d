"""`--method auto`: compares methods on the shots alone, chooses one, and estimates its accuracy."""
