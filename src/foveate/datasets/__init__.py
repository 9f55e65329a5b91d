"""The field's data sets as data: where their parts lie, what they are called, what must be there."""
